"""The step that finds out who calls. It stands before all that a call could cost."""

from collections.abc import Mapping
from typing import Any

from gateway.core.authentication import KeyAuthentication
from tokenrelay.errors import UnauthenticatedError
from tokenrelay.identity.callers import Scope
from tokenrelay.metrics import CallMetrics
from tokenrelay.serving.exchange import Exchange, Proceed

AUTHORIZATION = "authorization"

# What a method needs. One that is in neither table fails for everybody.
SCOPES: Mapping[str, Scope] = {
    "tokenrelay.v1.GenerationService/Generate": Scope.GENERATE,
    "tokenrelay.v1.GenerationService/GenerateStream": Scope.GENERATE,
    "tokenrelay.v1.GenerationService/SubmitGeneration": Scope.GENERATE,
    "tokenrelay.v1.GenerationService/AttachGeneration": Scope.READ,
    "tokenrelay.v1.GenerationService/GetGeneration": Scope.READ,
    "tokenrelay.v1.GenerationService/CancelGeneration": Scope.CANCEL,
    "tokenrelay.v1.ModelService/ListModels": Scope.MODELS,
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Scope.MODELS,
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Scope.MODELS,
}
OPEN = frozenset({"grpc.health.v1.Health/Check", "grpc.health.v1.Health/Watch", "grpc.health.v1.Health/List"})
"""Load balancers have no keys, and learn nothing but whether this gateway serves."""


class Authenticate:
    """Lets a call go on for its caller, or refuses it; ends it when its key is revoked."""

    def __init__(self, authentication: KeyAuthentication, metrics: CallMetrics) -> None:
        self._authentication = authentication
        self._metrics = metrics

    async def __call__(self, exchange: Exchange, proceed: Proceed) -> Any:
        if exchange.method in OPEN:
            return await proceed(exchange)
        try:
            exchange.caller = await self._authentication.caller(_authorization(exchange.context))
            exchange.caller.require(SCOPES[exchange.method])
            with self._authentication.opened(exchange.caller):
                return await proceed(exchange)
        except UnauthenticatedError as error:
            self._metrics.refusals.labels(error.reason).inc()
            raise


def _authorization(context: Any) -> str | None:
    """Returns the header; None if there is none, or more than one."""
    found = [value for name, value in context.invocation_metadata() or () if name == AUTHORIZATION]
    return found[0] if len(found) == 1 and isinstance(found[0], str) else None

"""The step that bounds a request's headers."""

from typing import Any

from tokenrelay.header_limits import HeaderLimits
from tokenrelay.serving.exchange import Exchange, Proceed


class Headers:
    """Refuses a call whose headers are too many or too large."""

    def __init__(self, limits: HeaderLimits) -> None:
        self._limits = limits

    async def __call__(self, exchange: Exchange, proceed: Proceed) -> Any:
        # Without what gRPC itself uses, such as the content type.
        self._limits.check(exchange.context.invocation_metadata() or ())
        return await proceed(exchange)

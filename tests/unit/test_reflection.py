"""Reflection is served by whatever takes servicers, not by grpc.aio's server alone."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from tokenrelay.serving import reflection
from tokenrelay.v1 import generation_service_pb2

SERVICES = [service.full_name for service in generation_service_pb2.DESCRIPTOR.services_by_name.values()]


class AnyServer:
    """Takes what generated code adds."""

    def __init__(self) -> None:
        self.handlers: dict[str, Any] = {}

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self.handlers |= {f"{service}/{name}": handler for name, handler in handlers.items()}

    def add_generic_rpc_handlers(self, generic: Sequence[Any]) -> None:
        pass


def test_both_versions_are_asynchronous_on_any_server() -> None:
    server = AnyServer()
    reflection.add_to_server(SERVICES, server)
    assert set(server.handlers) == {
        f"grpc.reflection.{name}.ServerReflection/ServerReflectionInfo" for name in ("v1", "v1alpha")
    }
    assert all(inspect.isasyncgenfunction(handler.stream_stream) for handler in server.handlers.values())

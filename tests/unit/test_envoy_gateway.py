"""When the parent process of Envoy says that the gateway is ready."""

import asyncio
from types import SimpleNamespace
from typing import Any

from gateway.edge.envoy import EnvoyGateway
from gateway.edge.envoy_admin import AdminError
from gateway.settings import GatewaySettings

STARTED = "listener_manager.workers_started"


async def test_a_gateway_is_ready_once_envoy_listens() -> None:
    answers: list[Any] = [AdminError("it does not answer yet"), {}, {STARTED: 0}, {STARTED: 1}]

    async def statistics(_: str) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, AdminError):
            raise answer
        return answer

    gateway = EnvoyGateway(GatewaySettings())
    gateway._envoy = SimpleNamespace(ended=asyncio.Event())  # type: ignore[assignment]
    gateway._admin = SimpleNamespace(statistics=statistics)  # type: ignore[assignment]
    gateway._ready.set()  # as the application says it
    await gateway._wait_until_ready()
    assert answers == []

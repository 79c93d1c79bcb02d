"""What a process costs holds what it has started, and a client has as many connections as it is to have."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from bench.load.measuring import Refused, Sample
from bench.load.workload import Request
from bench.processes.child import Child
from bench.processes.usage import tree
from bench.systems.tokenrelay import Tokenrelay, TokenrelayTarget
from tests.support.waiting import eventually
from tokenrelay.v1 import generation_service_pb2_grpc

WAITS = "import signal; signal.pause()"
STARTS_ANOTHER = f"import subprocess, sys; subprocess.run([sys.executable, '-c', '{WAITS}'])"


@asynccontextmanager
async def parents(folder: Path, *names: str) -> AsyncIterator[list[Child]]:
    """Runs processes by these names, each with a child."""
    children = [Child(name, [sys.executable, "-c", STARTS_ANOTHER], folder, {}) for name in names]
    try:
        for child in children:
            await child.start()

            async def has_started_another(pid: int = child.pid) -> bool:
                return len(tree(pid)) > 1

            await eventually(has_started_another, "it has a child")
        yield children
    finally:
        for child in children:
            await child.close()


async def test_a_gateway_counts_with_what_it_has_started_and_an_engine_service_without(tmp_path: Path) -> None:
    system = Tokenrelay(tmp_path, engine="simulated", model="simulated")
    async with parents(tmp_path, "gateway-1", "engine-1") as (gateway, engine):
        system._children = [gateway, engine]
        found = system.processes()
        assert found["gateway"] == [process.pid for process in tree(gateway.pid)]
        assert found["engine"] == [engine.pid]
        assert found["vllm"] == [process.pid for process in tree(engine.pid)[1:]]


class Refusing(generation_service_pb2_grpc.GenerationServiceServicer):
    """Refuses everything and notes who asked."""

    def __init__(self) -> None:
        self.peers: set[str] = set()

    async def GenerateStream(self, _request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.peers.add(context.peer())
        await context.abort(grpc.StatusCode.UNIMPLEMENTED)
        yield


@pytest.mark.parametrize("connections", [1, 3])
async def test_requests_are_spread_over_the_connections(connections: int) -> None:
    servicer, server = Refusing(), grpc.aio.server()  # type: ignore[abstract]  # one call is enough
    generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    target = TokenrelayTarget([f"127.0.0.1:{port}"], connections)
    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(6):
                tasks.create_task(refused(target))
    finally:
        await target.close()
        await server.stop(None)
    assert len(servicer.peers) == connections


async def refused(target: TokenrelayTarget) -> None:
    with pytest.raises(Refused, match="UNIMPLEMENTED"):
        await target.run(Request((300,), 1), Sample(0.0))

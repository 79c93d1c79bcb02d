"""What a gateway on the Envoy edge is beside its calls: two processes, of which neither outlives the other."""

import os
import signal
from pathlib import Path

import pytest

from tests.integration.conftest import spec
from tests.support.gateway_process import GatewayProcess
from tests.support.stack import Stack
from tests.support.waiting import eventually
from tokenrelay.v1 import generation_service_pb2 as s

pytestmark = pytest.mark.edge("envoy")


@pytest.fixture
async def gateway(stack: Stack) -> GatewayProcess:
    await stack.add_worker(await stack.add_engine())
    gateway = await stack.add_gateway_process(drain_seconds=60.0)
    await stack.wait_until_served(gateway)
    return gateway


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_sigterm_drains_and_leaves_nothing_behind(gateway: GatewayProcess, stack: Stack) -> None:
    envoy = gateway.envoy()
    call = stack.stub(gateway).GenerateStream(s.GenerateStreamRequest(spec=spec(max_tokens=300)))
    await call.initial_metadata()
    gateway.process.send_signal(signal.SIGTERM)
    last = None
    async for response in call:
        last = response
    assert last is not None
    assert last.event.HasField("finished")
    assert await gateway.end() == 0
    assert not is_there(envoy)


async def test_envoy_dies_with_its_parent(gateway: GatewayProcess) -> None:
    envoy = gateway.envoy()
    gateway.process.kill()
    await gateway.end()
    await eventually(lambda: not is_there(envoy) or "State:\tZ" in Path(f"/proc/{envoy}/status").read_text(), "envoy is gone")


async def test_the_parent_ends_when_envoy_dies(gateway: GatewayProcess) -> None:
    os.kill(gateway.envoy(), signal.SIGKILL)
    assert await gateway.end() == 1

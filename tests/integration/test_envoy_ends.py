"""An Envoy that is killed before the gateway is ready: the gateway says so, and ends."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE

from bench.processes.ports import free_ports
from drills import family
from gateway.settings import GatewaySettings
from tests.support.waiting import PATIENCE, eventually
from tokenrelay import settings


async def test_the_gateway_says_how_envoy_ended() -> None:
    # Nobody listens there, so that it never becomes ready.
    given = GatewaySettings(redis_url=f"redis://127.0.0.1:{free_ports()}/0", port=0, edge="envoy")
    environment = {**os.environ, **settings.environment(given)}
    gateway = await asyncio.create_subprocess_exec(sys.executable, "-m", "gateway", env=environment, stdout=PIPE, stderr=PIPE)
    try:
        await eventually(lambda: family.envoy_below(gateway.pid), "the gateway has started Envoy")
        envoy = family.envoy_below(gateway.pid)
        assert envoy is not None
        os.kill(envoy, signal.SIGKILL)
        told, problems = await asyncio.wait_for(gateway.communicate(), PATIENCE)
    finally:
        if gateway.returncode is None:
            gateway.kill()
    assert gateway.returncode == 1, f"{told!r} {problems!r}"
    assert b"Envoy ended with signal SIGKILL" in told + problems

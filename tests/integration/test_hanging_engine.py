"""An engine that hangs ends by itself, and what it had goes on elsewhere."""

import asyncio
import os
import sys
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.processes.ports import free_ports
from broker_worker.app import WorkerApplication
from broker_worker.settings import WorkerSettings
from engine_service.engines.simulated.simulation import expected_tokens
from engine_service.watchdog import Progress
from tests.integration.conftest import spec
from tests.integration.test_calls import read, tokens
from tests.support.local_stack import ROOT
from tests.support.stack import Stack
from tests.support.waiting import eventually
from tokenrelay.v1 import generation_service_pb2 as s


async def engine_process(port: int) -> asyncio.subprocess.Process:
    """A simulated engine in a process of its own, since it will end that."""
    environment = {
        **os.environ,
        "TOKENRELAY_ENGINE": "simulated",
        "TOKENRELAY_MODEL": "test",
        "TOKENRELAY_PORT": str(port),
        "TOKENRELAY_HANG_SECONDS": "1",
        "TOKENRELAY_SIMULATED_STEP_MS": "1",
    }
    command = (sys.executable, "-m", "engine_service")
    process = await asyncio.create_subprocess_exec(*command, env=environment, cwd=ROOT, stderr=asyncio.subprocess.PIPE)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:

        async def serves() -> bool:
            try:
                answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            except grpc.aio.AioRpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        await eventually(serves, "the engine serves")
    return process


async def test_a_hanging_engine_ends_and_its_generations_go_on(stack: Stack) -> None:
    port = free_ports()
    process = await engine_process(port)
    settings = WorkerSettings(redis_url=stack.redis_url, engine_address=f"127.0.0.1:{port}", drain_seconds=1.0)
    await stack.add(WorkerApplication(settings))
    gateway = await stack.add_gateway()
    await stack.wait_until_served(gateway)
    stub = stack.stub(gateway)
    wanted = spec(max_tokens=3000)
    bystander = asyncio.create_task(read(stub.GenerateStream(s.GenerateStreamRequest(spec=wanted))))
    hanging = await stub.SubmitGeneration(s.SubmitGenerationRequest(spec=spec("!hang 3", max_tokens=10)))
    _, told = await process.communicate()
    assert process.returncode == 1
    assert b"the engine hangs" in told
    await stub.CancelGeneration(s.CancelGenerationRequest(generation_id=hanging.generation_id))
    await stack.add_worker(await stack.add_engine())
    events = await bystander
    assert tokens(events) == list(expected_tokens(wanted))
    assert events[-1].finished.attempts == 2


def test_silence_counts_only_while_something_is_open() -> None:
    progress = Progress()
    assert progress.silence() == 0
    progress.began()
    before = time.monotonic()
    progress.moved()
    assert 0 <= progress.silence() <= time.monotonic() - before
    progress.ended()
    assert progress.silence() == 0

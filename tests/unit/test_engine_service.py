"""An engine service in this process: its sessions, its drain, and what ends it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import pytest
import structlog
from structlog.testing import capture_logs

from engine_service import app, session, sink
from engine_service.app import EngineApplication, EngineDeadError, ServerEndedError
from engine_service.engines import EngineRequest, Sink
from engine_service.engines.simulated.engine import SimulatedEngine
from engine_service.settings import EngineSettings
from tests.support.waiting import eventually
from tokenrelay.engine.v1 import engine_service_pb2 as e
from tokenrelay.engine.v1 import engine_service_pb2_grpc
from tokenrelay.start_up import StartUpError
from tokenrelay.v1 import generation_pb2 as g

LONG = g.GenerationSpec(text="x", sampling_params=g.SamplingParams(max_tokens=100_000, ignore_eos=True))
SHORT = g.GenerationSpec(text="x", sampling_params=g.SamplingParams(max_tokens=3, ignore_eos=True))


def settings(**other: Any) -> EngineSettings:
    return EngineSettings(
        **{"engine": "simulated", "model": "test", "port": 0, "simulated_step_ms": 1, "drain_seconds": 30, **other}
    )


@pytest.fixture
async def application() -> AsyncIterator[EngineApplication]:
    application = EngineApplication(settings())
    try:
        await application.start_up()
        yield application
    finally:
        await application.stop()


@pytest.fixture
async def stub(application: EngineApplication) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{application.port}") as channel:
        yield engine_service_pb2_grpc.EngineServiceStub(channel)


def start(key: int, spec: g.GenerationSpec | bytes) -> e.RunSessionRequest:
    spec = spec if isinstance(spec, bytes) else spec.SerializeToString()
    return e.RunSessionRequest(starts=[e.StartGeneration(key=key, generation_id=f"gen-{key}", spec=spec)])


async def read_to_end(call: Any, *, acknowledge: bool = True) -> list[e.Output]:
    """Reads frames up to a generation's end."""
    outputs: list[e.Output] = []
    while not outputs or outputs[-1].WhichOneof("outcome") is None:
        frame = await asyncio.wait_for(call.read(), 60)
        assert frame is not grpc.aio.EOF, "the session ended before the generation did"
        outputs.extend(frame.outputs)
        if acknowledge:
            await call.write(e.RunSessionRequest(acknowledged_frame=frame.frame))
    return outputs


async def status_of(call: Any) -> grpc.StatusCode:
    try:
        while await asyncio.wait_for(call.read(), 60) is not grpc.aio.EOF:
            pass
        code: grpc.StatusCode = await call.code()
    except grpc.aio.AioRpcError as error:
        code = error.code()
    return code


async def test_a_fault_in_a_session_is_logged_and_ends_it_as_an_error(stub: Any) -> None:
    with capture_logs() as logs:
        call = stub.RunSession()
        await call.write(start(1, LONG))
        await call.write(start(1, LONG))  # no worker may use a key twice
        assert await status_of(call) is grpc.StatusCode.INTERNAL
    (line,) = [line for line in logs if line["event"] == "session failed"]
    assert isinstance(line["exc_info"], ValueError)


async def test_a_worker_that_leaves_is_no_fault(stub: Any, application: EngineApplication) -> None:
    with capture_logs() as logs:
        call = stub.RunSession()
        await call.write(start(1, LONG))
        assert await asyncio.wait_for(call.read(), 60) is not grpc.aio.EOF
        call.cancel()
        await eventually(lambda: not application._servicer._sessions, "the session has ended")
        call = stub.RunSession()
        await call.write(start(1, SHORT))
        await read_to_end(call)
        await call.done_writing()
        assert await status_of(call) is grpc.StatusCode.OK
    assert not [line for line in logs if line["event"] == "session failed"]


async def test_a_worker_gets_continuations_if_it_asks_for_them(stub: Any) -> None:
    for asks in (True, False):
        call = stub.RunSession()
        request = start(1, LONG)
        request.takes_continuations = asks
        await call.write(request)
        frame = await asyncio.wait_for(call.read(), 60)
        assert (list(frame.continuations.keys), [output.key for output in frame.outputs]) == (([1], []) if asks else ([], [1]))
        call.cancel()


async def test_a_spec_that_cannot_be_read_fails_its_generation_alone(stub: Any) -> None:
    call = stub.RunSession()
    await call.write(start(1, b"\xff\xff\xff"))
    (refused,) = await read_to_end(call)
    assert (refused.key, refused.error.code) == (1, grpc.StatusCode.INVALID_ARGUMENT.value[0])
    await call.write(start(2, SHORT))
    assert (await read_to_end(call))[-1].summary.usage.completion_tokens == 3


async def test_a_session_that_opens_while_the_service_drains_is_refused(stub: Any, application: EngineApplication) -> None:
    open_one = stub.RunSession()
    await open_one.write(start(1, LONG))
    assert await asyncio.wait_for(open_one.read(), 60) is not grpc.aio.EOF
    draining = asyncio.create_task(application.drain())
    await eventually(lambda: application._servicer._draining, "it drains")
    late = stub.RunSession()
    await late.write(start(2, LONG))
    assert await status_of(late) is grpc.StatusCode.UNAVAILABLE
    await open_one.write(e.RunSessionRequest(cancelled_keys=[1], acknowledged_frame=10_000))
    assert await status_of(open_one) is grpc.StatusCode.OK, "it ended in good order"
    await asyncio.wait_for(draining, 60)


async def test_a_draining_service_sends_the_last_generation_s_end(stub: Any, application: EngineApplication) -> None:
    call = stub.RunSession()
    await call.write(start(1, SHORT))
    first = await asyncio.wait_for(call.read(), 60)
    assert first.frame == 1
    (session_now,) = application._servicer._sessions
    # Unacknowledged, the first frame holds back the next ones, the one with the end among them.
    await asyncio.wait_for(session_now.wait_until_idle(), 60)
    draining = asyncio.create_task(application.drain())
    await asyncio.sleep(0)
    await call.write(e.RunSessionRequest(acknowledged_frame=1))
    assert (await read_to_end(call))[-1].summary.usage.completion_tokens == 3
    assert await status_of(call) is grpc.StatusCode.OK
    await asyncio.wait_for(draining, 60)


async def test_a_message_of_many_starts_is_taken_however_large(stub: Any) -> None:
    call = stub.RunSession()
    prompt = g.GenerationSpec(text="x" * 4_000_000, sampling_params=SHORT.sampling_params).SerializeToString()
    request = e.RunSessionRequest()
    for key in range(68):  # more than 256 MiB
        request.starts.add(key=key, generation_id=f"gen-{key}", spec=prompt)
    await call.write(request)
    (refused, *_) = await read_to_end(call)
    assert refused.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0], "the prompt is longer than the context"


async def test_the_process_ends_when_its_server_has(application: EngineApplication) -> None:
    running = asyncio.create_task(application.run())
    await asyncio.sleep(0)
    await application._server.server.stop(None)
    with pytest.raises(ServerEndedError):
        await asyncio.wait_for(running, 60)


async def test_the_engine_s_death_is_the_reason_when_both_end(application: EngineApplication) -> None:
    stepping = application._engine._stepping  # type: ignore[attr-defined]
    stepping.cancel()
    with pytest.raises(EngineDeadError):
        await asyncio.wait_for(application.run(), 60)


async def test_a_run_that_is_cancelled_leaves_nothing_behind(application: EngineApplication) -> None:
    before = asyncio.all_tasks()
    running = asyncio.create_task(application.run())
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert asyncio.all_tasks() <= before


class Silent(SimulatedEngine):
    """Begins generations and emits nothing."""

    async def begin(self, request: EngineRequest, sink: Sink) -> Any:
        return None


async def test_an_engine_that_generates_nothing_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_make", Silent)
    application = EngineApplication(settings(warm_up_seconds=0.1))
    try:
        with pytest.raises(StartUpError, match=r"TOKENRELAY_WARM_UP_SECONDS, which is 0\.1"):
            await application.start_up()
    finally:
        await application.stop()


class Warm(SimulatedEngine):
    """Notes what it begins."""

    def __init__(self, settings: EngineSettings) -> None:
        super().__init__(settings)
        self.begun: list[g.GenerationSpec] = []

    def warm_ups(self) -> Sequence[g.GenerationSpec]:
        return (g.GenerationSpec(text="x", sampling_params=g.SamplingParams(max_tokens=1, logprobs=1)), SHORT)

    async def begin(self, request: EngineRequest, sink: Sink) -> Any:
        self.begun.append(request.spec)
        return await super().begin(request, sink)


async def test_what_is_built_at_first_use_is_built_before_the_service_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "_make", Warm)
    application = EngineApplication(settings())
    try:
        await application.start_up()
        engine: Any = application._engine
        assert engine.begun[1:] == list(engine.warm_ups()), "one that is refused does not stop the others"
    finally:
        await application.stop()


async def test_each_step_of_a_generation_has_a_debug_line_with_its_id(stub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (session, sink):
        monkeypatch.setattr(module, "log", structlog.get_logger())
    with capture_logs() as logs:
        call = stub.RunSession()
        await call.write(start(1, SHORT))
        await read_to_end(call)
        await call.write(start(2, LONG))
        assert await asyncio.wait_for(call.read(), 60) is not grpc.aio.EOF
        await call.write(e.RunSessionRequest(cancelled_keys=[2]))
        await call.done_writing()
        await status_of(call)
    events = {key: [line["event"] for line in logs if line.get("generation_id") == key] for key in ("gen-1", "gen-2")}
    assert events == {
        "gen-1": ["generation received", "first token", "generation finished"],
        "gen-2": ["generation received", "first token", "generation cancelled"],
    }

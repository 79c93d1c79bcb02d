"""Generations that kill their engine: set aside after two deaths without a token, while the others go on unharmed."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.processes.ports import free_ports
from broker_worker import admission_queue
from broker_worker.app import WorkerApplication
from broker_worker.engine_link import EngineLink
from broker_worker.settings import WorkerSettings
from engine_service.engines.simulated.engine import SimulatedEngine
from engine_service.engines.simulated.simulation import expected_tokens
from tests.integration.conftest import Served, spec
from tests.integration.test_calls import read, reason, started, tokens
from tests.integration.test_processes_come_and_go import check_whole, until
from tests.support.local_stack import ROOT, run
from tests.support.stack import MODEL, Running, Stack
from tests.support.waiting import eventually
from tokenrelay.errors import EngineDiedError
from tokenrelay.store import keys
from tokenrelay.store.assembly import assemble
from tokenrelay.store.dead_letters import DeadLetters
from tokenrelay.store.records import Record
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import StoreLimits, Submission
from tokenrelay.v1 import generation_pb2 as g
from tokenrelay.v1 import generation_service_pb2 as s

SLOW = {"TOKENRELAY_SIMULATED_PREFILL_TOKENS_PER_SECOND": "10"}
SLOW_PROMPT = "slow " * 16  # 21 tokens, so two seconds until the first token
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


class EngineProcess:
    """A simulated engine in a process of its own, which is started anew whenever it ends, as a supervisor does."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.port = free_ports()
        self.starts = 0
        self.process: asyncio.subprocess.Process | None = None
        self._environment = {
            **os.environ,
            "TOKENRELAY_ENGINE": "simulated",
            "TOKENRELAY_MODEL": "test",
            "TOKENRELAY_PORT": str(self.port),
            "TOKENRELAY_SIMULATED_STEP_MS": "1",
            "TOKENRELAY_LOG_LEVEL": "error",
        } | environment

    async def supervise(self) -> None:
        while True:
            command = (sys.executable, "-m", "engine_service")
            self.process = await asyncio.create_subprocess_exec(*command, env=self._environment, cwd=ROOT)
            self.starts += 1
            await self.process.wait()

    async def serves(self) -> bool:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            try:
                answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            except grpc.aio.AioRpcError:
                return False
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()


@asynccontextmanager
async def engine_process(**environment: str) -> AsyncIterator[EngineProcess]:
    engine = EngineProcess(environment)
    supervising = asyncio.create_task(engine.supervise())
    try:
        await eventually(engine.serves, "the engine serves")
        yield engine
    finally:
        supervising.cancel()
        if engine.process is not None and engine.process.returncode is None:
            engine.kill()
            await engine.process.wait()


class Bench:
    """A gateway, a worker, and the engine that it drives."""

    def __init__(self, stack: Stack, worker: Running, stub: Any) -> None:
        self.stack = stack
        self.worker = worker
        self.stub = stub

    @classmethod
    async def at(cls, stack: Stack, port: int, **settings: Any) -> "Bench":
        values = {"redis_url": stack.redis_url, "engine_address": f"127.0.0.1:{port}", "drain_seconds": 1.0, **settings}
        worker = await stack.add(WorkerApplication(WorkerSettings(**values)))
        gateway = await stack.add_gateway()
        await stack.wait_until_served(gateway)
        return cls(stack, worker, stack.stub(gateway))

    def stream(self, wanted: g.GenerationSpec) -> Any:
        return self.stub.GenerateStream(s.GenerateStreamRequest(spec=wanted))

    async def submit(self, wanted: g.GenerationSpec) -> str:
        answer = await self.stub.SubmitGeneration(s.SubmitGenerationRequest(spec=wanted))
        return str(answer.generation_id)

    async def end_of(self, generation_id: str) -> list[g.GenerationEvent]:
        return await read(self.stub.AttachGeneration(s.AttachGenerationRequest(generation_id=generation_id)))

    async def record(self, generation_id: str) -> Record:
        record: Record = await self.worker.application._store.generations.read_record(generation_id)
        return record

    async def wait_until_begun(self, generation_id: str, epoch: int) -> None:
        """Returns once an attempt's engine has the generation."""

        def begun() -> bool:
            shift = self.worker.application.work.driver
            execution = shift and shift.roster.by_id(generation_id)
            return bool(execution and execution.record.epoch == epoch and execution.dispatched_ns)

        await eventually(begun, f"attempt {epoch} is with the engine")

    async def letters(self) -> list[str]:
        return [letter.generation_id for letter in await DeadLetters(self.worker.application._store).all()]


async def dead_letters(bench: Bench, *arguments: str) -> tuple[int, str, str]:
    """Runs the command in a process of its own."""
    command = (sys.executable, "-m", "tokenrelay.admin.dead_letters", *arguments)
    return await run(*command, environment={"TOKENRELAY_REDIS_URL": bench.stack.redis_url})


def suspect_of(wanted: g.GenerationSpec) -> Submission:
    """What begins as a suspect, as after an engine's death."""
    return Submission(
        generation_id=keys.new_generation_id(0),
        job=store_pb2.Job(model=MODEL, n=1),
        spec=wanted.SerializeToString(),
        request_hash="",
        idempotency_key="",
        queue_timeout_ms=None,
        time_limit_ms=None,
        policy=g.DISCONNECT_POLICY_DETACH,
        grace_ms=0,
        suspect=True,
    )


async def ends_as_dead_letter(call: Any) -> list[int]:
    """Reads a stream to its terminal error; returns the tokens before it."""
    seen = []
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for response in call:
            seen += list(response.event.delta.token_ids)
    assert (caught.value.code(), reason(caught.value)) == (grpc.StatusCode.INTERNAL, "DEAD_LETTER")
    assert "the engine crashed twice on this prompt" in (caught.value.details() or "")
    return seen


# For each sequence at which it can stand, from 0 to the tokens that it gives first: once among others, once alone.
@pytest.mark.parametrize(("poison", "most_attempts"), [("!crash 0", 2), ("!crash 3", 8), ("!hang 0", 2)])
async def test_a_poison_generation_is_set_aside_and_the_others_go_on(stack: Stack, poison: str, most_attempts: int) -> None:
    async with engine_process(TOKENRELAY_HANG_SECONDS="1") as engine:
        bench = await Bench.at(stack, engine.port)
        others = [spec(f"bystander {number}", max_tokens=2500) for number in range(6)]
        calls = [bench.stream(one) for one in others]
        begun = await asyncio.gather(*(until(call, 50) for call in calls))
        poisoned = bench.stream(spec(poison, max_tokens=50))
        accepted = (await anext(aiter(poisoned))).event.accepted.generation_id
        seen = await ends_as_dead_letter(poisoned)
        assert seen == list(expected_tokens(spec(poison, max_tokens=50)))[: len(seen)]
        assert len(seen) <= int(poison.split()[1])
        assert await bench.letters() == [accepted]
        record = await bench.record(accepted)
        assert record.epoch <= most_attempts
        for one, call, events in zip(others, calls, begun, strict=True):
            whole = [*events, *await read(call)]
            assert whole[-1].finished.attempts <= record.epoch, "it ran among others the last time"
            check_whole(one, whole, attempts=whole[-1].finished.attempts)
        ends = [await bench.record(events[0].accepted.generation_id) for events in begun]
        last_begun, first_ended = max(end.claimed_us or 0 for end in ends), min(end.finished_us or 0 for end in ends)
        assert last_begun < first_ended, "one waited for another's end"
        await eventually(lambda: engine.starts == record.epoch + 1, "only its own attempts have killed the engine")
        assert [lost.sequence for lost in record.lost_attempts][-1] == record.last, "the last attempt but one gave nothing"
        assert bench.worker.application._metrics.dead_letters._value.get() == 1


async def test_the_command_lists_shows_requeues_and_drops(stack: Stack) -> None:
    async with engine_process() as engine:
        bench = await Bench.at(stack, engine.port)
        assert await dead_letters(bench, "list") == (0, "", "There are no dead letters.\n")
        poison = spec("!crash 0", max_tokens=5)
        calls = [bench.stream(poison) for _ in range(2)]
        ids = [(await anext(aiter(call))).event.accepted.generation_id for call in calls]
        await asyncio.gather(*(ends_as_dead_letter(call) for call in calls))

        status, listed, _ = await dead_letters(bench, "list")
        assert status == 0
        assert [line.split()[0] for line in listed.splitlines()] == ["id", *await bench.letters()]
        assert sorted(await bench.letters()) == sorted(ids)
        as_json = json.loads((await dead_letters(bench, "list", "--json", "--model", MODEL))[1])
        assert sorted(one["generationId"] for one in as_json) == sorted(ids)
        assert await dead_letters(bench, "list", "--json", "--model", "other") == (0, "[]\n", "")

        first, second = ids
        _, shown, _ = await dead_letters(bench, "show", first)
        assert first in shown
        assert "the engine crashed twice on this prompt" in shown
        assert '"!crash 0"' in shown
        letter = json.loads((await dead_letters(bench, "show", first, "--json"))[1])
        worker_id = bench.worker.application._worker_id
        assert (letter["workerId"], letter["engine"], letter["spec"]["text"]) == (worker_id, "simulated", "!crash 0")
        assert letter["reason"]["details"][0]["reason"] == "DEAD_LETTER"
        # Two, if it was being claimed while the engine died of the other one.
        assert len(letter["timeline"]["lostAttempts"]) in {1, 2}

        starts = engine.starts
        status, requeued, _ = await dead_letters(bench, "requeue", first)
        assert status == 0
        assert first not in await bench.letters()
        with pytest.raises(grpc.aio.AioRpcError):
            await bench.end_of(requeued.strip())
        assert await bench.letters() == [second, requeued.strip()]
        assert (await bench.record(requeued.strip())).epoch == 1, "it began as a suspect"
        await eventually(lambda: engine.starts == starts + 1, "one more death was enough")

        for name in (second, requeued.strip()):
            assert await dead_letters(bench, "drop", name) == (0, "", f"dropped {name}\n")
        for arguments in (("requeue", first), ("show", "no-id")):
            told = f"there is no dead letter of a generation '{arguments[1]}'\n"
            assert await dead_letters(bench, *arguments) == (1, "", told)


async def test_without_redis_the_command_says_so(tmp_path: Any) -> None:
    environment = {"TOKENRELAY_REDIS_URL": f"unix://{tmp_path}/none.sock", "TOKENRELAY_REDIS_PATIENCE_SECONDS": "0.1"}
    status, out, told = await run(sys.executable, "-m", "tokenrelay.admin.dead_letters", "list", environment=environment)
    assert (status, out) == (1, "")
    assert told == "Redis cannot be reached; check TOKENRELAY_REDIS_URL\n"


async def test_the_documented_commands_are_those_that_there_are() -> None:
    documented = set(re.findall(r"tokenrelay-dead-letters ([a-z]+)", OPERATIONS))
    assert documented == {"list", "show", "requeue", "drop"}
    for name in documented:
        status, told, _ = await run(sys.executable, "-m", "tokenrelay.admin.dead_letters", name, "--help")
        assert status == 0
        assert f"tokenrelay-dead-letters {name}" in told
    assert 'tokenrelay-dead-letters = "tokenrelay.commands:dead_letters"' in (ROOT / "pyproject.toml").read_text()


async def test_an_engine_that_is_killed_twice_before_the_first_token_makes_a_dead_letter_too(stack: Stack) -> None:
    """Nobody can tell such a generation from one that kills; it can be queued anew."""
    async with engine_process(**SLOW) as engine:
        bench = await Bench.at(stack, engine.port)
        wanted = spec(SLOW_PROMPT)
        unlucky = await bench.submit(wanted)
        for epoch in (1, 2):
            await bench.wait_until_begun(unlucky, epoch)
            engine.kill()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bench.end_of(unlucky)
        assert reason(caught.value) == "DEAD_LETTER"
        _, requeued, _ = await dead_letters(bench, "requeue", unlucky)
        check_whole(wanted, await bench.end_of(requeued.strip()), attempts=1)


async def test_one_death_alone_does_no_harm(stack: Stack) -> None:
    async with engine_process(**SLOW, TOKENRELAY_SIMULATED_STEP_MS="20") as engine:
        bench = await Bench.at(stack, engine.port)
        wanted = spec(SLOW_PROMPT, max_tokens=40)
        call = bench.stream(wanted)
        generation_id = (await anext(aiter(call))).event.accepted.generation_id
        await bench.wait_until_begun(generation_id, 1)
        engine.kill()
        await bench.wait_until_begun(generation_id, 2)
        assert (await bench.record(generation_id)).engine_deaths == 1
        events = await until(call, 1)
        assert (await bench.record(generation_id)).engine_deaths == 0, "its tokens have cleared it"
        engine.kill()
        events += await read(call)
        assert tokens(events) == list(expected_tokens(wanted))
        assert events[-1].finished.attempts == 3
        assert await bench.letters() == []


class Line:
    """A TCP line to a port that can be broken, or left open and mute, while the process behind it lives."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.mute = False
        self.port = 0

    async def open(self) -> "Line":
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mute:
            self._writers.add(writer)
            return
        there, away = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, away}
        await asyncio.gather(self._copy(reader, away), self._copy(there, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        except ConnectionError:
            pass
        finally:
            writer.close()

    def cut(self) -> None:
        """Breaks all connections; new ones are answered."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def close(self) -> None:
        self.cut()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()


def _is_another(bench: Bench, shift: Any) -> bool:
    return bench.worker.application.work.driver is not shift


async def test_an_engine_is_dead_if_nobody_or_another_process_is_there(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = await stack.add_engine()
    port = engine.application.port
    link = EngineLink(f"localhost:{port}", 5.0)
    instance = (await link.wait_until_serving()).instance
    assert not await link.has_died(instance, 2.0)
    assert await link.has_died("another", 2.0)
    await engine.stop()
    assert await link.has_died(instance, 2.0), "nobody listens"

    async def load(_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(SimulatedEngine, "start", load)
    starting = asyncio.create_task(stack.add_engine(port=port))
    await eventually(lambda: stack.running[-1] is not engine and stack.running[-1].port == port, "another process loads")
    assert await link.has_died(instance, 5.0)
    starting.cancel()
    await link.close()
    nowhere = EngineLink("no-such-host.invalid:1", 5.0)
    assert not await nowhere.has_died(instance, 0.2), "that says nothing"
    await nowhere.close()


async def test_what_is_read_after_the_engine_s_loss_goes_back_at_once(served: Served) -> None:
    application = served.worker.application
    store = application._store
    await served.engine.stop()
    await eventually(lambda: application.work.driver is None, "the engine is lost")
    bench = Bench(served.stack, served.worker, served.stub)
    generation_id = await bench.submit(spec())

    async def waits_unread() -> bool:
        pending = sum((await store.queue.pending(MODEL, 0)).values())
        return pending == 0 and (await store.queue.age(MODEL)) > 1.5  # by then the last read has ended

    await eventually(waits_unread, "it is pending on no worker")
    await served.stack.add_worker(await served.stack.add_engine())
    check_whole(spec(), await bench.end_of(generation_id), attempts=1)


@pytest.fixture
async def slow_engine(stack: Stack) -> Running:
    return await stack.add_engine(simulated_prefill_tokens_per_second=10.0, drain_seconds=0.2)


@pytest.mark.parametrize("mute", [False, True])
async def test_a_broken_connection_is_no_death(stack: Stack, slow_engine: Running, mute: bool) -> None:
    line = await Line(slow_engine.application.port).open()
    try:
        bench = await Bench.at(stack, line.port)
        wanted = spec(SLOW_PROMPT)
        generation_id = await bench.submit(wanted)
        for epoch in (1, 2, 3):
            await bench.wait_until_begun(generation_id, epoch)
            line.mute = mute
            line.cut()
            shift = bench.worker.application.work.driver
            await eventually(partial(_is_another, bench, shift), "the session is lost")
            assert (await bench.record(generation_id)).engine_deaths == 0
            if mute:
                line.mute = False
                line.cut()  # what has waited for an answer connects anew
        check_whole(wanted, await bench.end_of(generation_id), attempts=4)
    finally:
        await line.close()


async def test_a_drained_engine_is_no_death(stack: Stack, slow_engine: Running) -> None:
    port = slow_engine.application.port
    bench = await Bench.at(stack, port)
    wanted = spec(SLOW_PROMPT)
    generation_id = await bench.submit(wanted)
    await bench.wait_until_begun(generation_id, 1)
    await slow_engine.drain()

    async def handed_back() -> bool:
        return (await bench.record(generation_id)).state == g.GENERATION_STATE_QUEUED

    await eventually(handed_back, "it is handed back")
    assert (await bench.record(generation_id)).engine_deaths == 0
    await stack.add_engine(port=port)
    check_whole(wanted, await bench.end_of(generation_id), attempts=2)


async def test_what_an_engine_says_of_its_own_death_counts(served: Served) -> None:
    """vLLM's service outlives its engine core for a moment and tells what was in it."""
    application = served.worker.application
    bench = Bench(served.stack, served.worker, served.stub)
    engine = served.engine.application._engine
    begin, told = engine.begin, []

    async def die(request: Any, sink: Any) -> Any:
        told.append(request.generation_id)
        sink.fail(EngineDiedError("the engine died; its service restarts"))
        return await begin(request, sink)

    engine.begin = die
    call = bench.stream(spec("vLLM's own"))
    generation_id = (await anext(aiter(call))).event.accepted.generation_id
    await ends_as_dead_letter(call)
    assert told == [generation_id] * 2
    assert application._metrics.dead_letters._value.get() == 1


async def test_a_suspect_lets_others_pass_and_then_has_the_engine_for_itself(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission_queue, "SUSPECT_PATIENCE", 0.5)
    bench = Bench(served.stack, served.worker, served.stub)
    store = served.worker.application._store
    long = bench.stream(spec("long", max_tokens=4000))
    runs = await started(long)
    wanted = spec("suspect", max_tokens=3000)
    suspect = suspect_of(wanted)
    await store.generations.submit(suspect)
    intake = served.worker.application.work.intake
    await eventually(lambda: intake.read_ahead.queue.suspects, "the suspect was read")
    passes = await bench.submit(spec("passes"))
    await bench.end_of(passes)
    await eventually(lambda: intake.read_ahead.queue.holds_back, "its patience is over")
    waits, _ = [await bench.submit(spec("waits")) for _ in range(2)]  # as many as are read ahead
    check_whole(spec("waits"), await bench.end_of(waits), attempts=1)
    await bench.end_of(suspect.generation_id)
    await read(long)
    ran, first, before, after = [await bench.record(one) for one in (runs, suspect.generation_id, passes, waits)]
    instants = [ran.claimed_us, before.claimed_us, ran.finished_us, first.claimed_us, first.first_us, after.claimed_us]
    known = [instant for instant in (*instants, after.finished_us, first.finished_us) if instant is not None]
    assert known == sorted(known), "what runs, what passes, an end; the suspect, its first token; what joins it, and their ends"
    assert len(known) == 8


async def test_many_suspects_wait_for_no_other_s_end_and_the_poison_among_them_is_found(
    stack: Stack, connection: RedisConnection
) -> None:
    store = assemble(connection, StoreLimits())
    wanted = [spec(f"suspect {number}", max_tokens=1500) for number in range(5)]
    suspects = [suspect_of(one) for one in (*wanted[:2], spec("!crash 0"), *wanted[2:])]
    ordinary = replace(suspect_of(spec("ordinary", max_tokens=1500)), suspect=False)
    for one in (ordinary, *suspects):
        await store.generations.submit(one)
    poison = suspects.pop(2)
    async with engine_process() as engine:
        bench = await Bench.at(stack, engine.port)
        for submission, undisturbed in zip(suspects, wanted, strict=True):
            events = await bench.end_of(submission.generation_id)
            check_whole(undisturbed, events, attempts=events[-1].finished.attempts)
        await bench.end_of(ordinary.generation_id)
        assert await bench.letters() == [poison.generation_id]
        judged = await bench.record(poison.generation_id)
        assert judged.epoch == 2, "the first time it was not alone, and the second time it was the first"
        await eventually(lambda: engine.starts == 3, "it has killed the engine twice")
        records = [await bench.record(one.generation_id) for one in suspects]
        assert [record.epoch for record in records] == [2, 2, 1, 1, 1]
        last_begun, first_ended = max(one.claimed_us or 0 for one in records), min(one.finished_us or 0 for one in records)
        assert last_begun < first_ended
        joined = (await bench.record(ordinary.generation_id)).claimed_us or 0
        assert max(one.claimed_us or 0 for one in records[2:]) < joined, "others join when the last suspect is cleared"


async def test_a_suspect_that_a_busy_worker_has_read_runs_first_on_a_new_one(stack: Stack) -> None:
    busy = await stack.add_worker(await stack.add_engine(simulated_slots=1))
    gateway = await stack.add_gateway()
    await stack.wait_until_served(gateway)
    bench = Bench(stack, busy, stack.stub(gateway))
    long = bench.stream(spec("long", max_tokens=100_000))
    await started(long)
    suspect = suspect_of(spec("suspect"))
    await busy.application._store.generations.submit(suspect)
    intake = busy.application.work.intake
    await eventually(lambda: intake.read_ahead.queue.suspects, "the busy worker has read it")
    others = [await bench.submit(spec(f"other {number}")) for number in range(5)]
    await stack.add_worker(await stack.add_engine())
    check_whole(spec("suspect"), await bench.end_of(suspect.generation_id), attempts=1)
    await eventually(lambda: not intake.read_ahead.queue.suspects, "the busy worker has forgotten it")
    for other in others:
        await bench.end_of(other)
    begun = [(await bench.record(name)).claimed_us or 0 for name in (suspect.generation_id, *others)]
    assert min(begun) == begun[0], "it was begun before the others"
    long.cancel()


async def test_a_paused_engine_is_no_death(stack: Stack) -> None:
    async with engine_process(**SLOW) as engine:
        bench = await Bench.at(stack, engine.port, engine_keepalive_seconds=1.0)
        generation_id = await bench.submit(spec(SLOW_PROMPT))
        await bench.wait_until_begun(generation_id, 1)
        assert engine.process is not None
        engine.process.send_signal(signal.SIGSTOP)

        async def handed_back() -> bool:
            return (await bench.record(generation_id)).state == g.GENERATION_STATE_QUEUED

        try:
            await eventually(handed_back, "it is handed back")
        finally:
            engine.process.send_signal(signal.SIGCONT)
        assert (await bench.record(generation_id)).engine_deaths == 0
        check_whole(spec(SLOW_PROMPT), await bench.end_of(generation_id), attempts=2)
        assert engine.starts == 1

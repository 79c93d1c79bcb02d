"""A session driver on a real Redis, with an engine whose every word the test says."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from broker_worker.lease_renewal import LeaseRenewal
from broker_worker.reports import Reports
from broker_worker.session_driver import SessionDriver
from tests.store.conftest import MODEL, Bench
from tests.support.redis_server import RedisServer
from tests.support.waiting import eventually
from tokenrelay import telemetry
from tokenrelay.engine.v1 import engine_service_pb2
from tokenrelay.errors import DataLossError, GenerationAbortedError
from tokenrelay.metrics import WorkerMetrics
from tokenrelay.settings import ProcessSettings
from tokenrelay.store import keys
from tokenrelay.store.assembly import assemble
from tokenrelay.store.records import Record
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import Claim, StoreLimits
from tokenrelay.v1 import generation_pb2


class Engine:
    """An engine session that notes what it is told."""

    def __init__(self) -> None:
        self.started: list[engine_service_pb2.StartGeneration] = []
        self.cancelled: list[int] = []
        self._frames: asyncio.Queue[engine_service_pb2.RunSessionResponse] = asyncio.Queue()

    def start(self, generation: engine_service_pb2.StartGeneration) -> None:
        self.started.append(generation)

    def cancel(self, key: int) -> None:
        self.cancelled.append(key)

    def acknowledge(self, frame: int) -> None:
        pass

    async def frames(self) -> AsyncIterator[engine_service_pb2.RunSessionResponse]:
        while True:
            yield await self._frames.get()

    def put(self, frame: engine_service_pb2.RunSessionResponse) -> None:
        self._frames.put_nowait(frame)

    def put_out(self, *outputs: engine_service_pb2.Output) -> None:
        self.put(engine_service_pb2.RunSessionResponse(outputs=outputs))


class Driven:
    """A worker's driver, its engine, and the store."""

    def __init__(self, bench: Bench, fingerprint: str = "f1") -> None:
        self.bench = bench
        self.engine = Engine()
        self.metrics = WorkerMetrics(CollectorRegistry())
        tracing = telemetry.set_up("worker", "w1", ProcessSettings())
        self.driver = SessionDriver(
            worker_id="w1",
            model=engine_service_pb2.DescribeEngineResponse(model=MODEL, fingerprint=fingerprint, slots=4),
            session=self.engine,  # type: ignore[arg-type]
            store=bench.store.attempts,
            token_log=bench.store.log,
            reports=Reports("w1", tracing, self.metrics, log_content=False),
            metrics=self.metrics,
            on_capacity=lambda: None,
            on_refusal=lambda: None,
        )
        self.renewal = LeaseRenewal(
            store=bench.store.attempts,
            connection=bench.store.connection,
            roster=self.driver.roster,
            endings=self.driver.endings,
            interval=0.05,
        )
        self._relaying = asyncio.create_task(self.driver.relay())

    async def begin(self, claim: Claim) -> None:
        await self.driver.start(self.driver.take_up(claim))

    def finish(self, key: int, tokens: int) -> None:
        delta = generation_pb2.Delta(text="x", token_ids=range(tokens)).SerializeToString()
        summary = engine_service_pb2.EngineSummary(choices=[generation_pb2.ChoiceEnd()])
        self.engine.put_out(engine_service_pb2.Output(key=key, delta=delta, token_count=tokens, summary=summary))

    async def record(self, generation_id: str) -> Record:
        return await self.bench.store.generations.read_record(generation_id)

    async def is_over(self, generation_id: str) -> Record:
        async def over() -> bool:
            return (await self.record(generation_id)).finished_us is not None

        await eventually(over, "it ends")
        return await self.record(generation_id)

    async def terminal(self, generation_id: str) -> store_pb2.Terminal:
        terminal = (await self.bench.store.log.read(generation_id, 0))[-1].terminal
        assert terminal is not None
        return terminal


@pytest.fixture
async def driven(bench: Bench) -> AsyncIterator[Driven]:
    driven = Driven(bench)
    yield driven
    driven._relaying.cancel()
    await asyncio.gather(driven._relaying, return_exceptions=True)


async def take_over(bench: Bench) -> Claim:
    """Has the lease of what runs expire, and claims it again."""

    async def requeued() -> bool:
        return (await bench.reap()).taken_over == 1

    await eventually(requeued, "the lease has run out")
    return await bench.take()


async def test_a_frame_may_have_columns_and_outputs(driven: Driven) -> None:
    ids = [await driven.bench.submit() for _ in range(2)]
    for _ in ids:
        await driven.begin(await driven.bench.take())
    deltas = [generation_pb2.Delta(text="x", token_ids=range(count)).SerializeToString() for count in (1, 2, 3)]
    columns = engine_service_pb2.Continuations(keys=[2, 99, 1], token_counts=[1, 2, 3], deltas=deltas)
    driven.engine.put(engine_service_pb2.RunSessionResponse(continuations=columns))
    end = generation_pb2.ChoiceEnd(finish_reason=generation_pb2.FINISH_REASON_STOP)
    output = engine_service_pb2.Output(key=2, delta=deltas[1], token_count=2, index=1, end=end)
    driven.engine.put(
        engine_service_pb2.RunSessionResponse(
            continuations=engine_service_pb2.Continuations(keys=[1], token_counts=[1], deltas=deltas[:1]), outputs=[output]
        )
    )
    driven.finish(1, 3)
    driven.finish(2, 3)
    for name, wanted in zip(ids, [[3, 1, 3], [1, 2, 3]], strict=True):
        await driven.is_over(name)
        entries = [item.entry for item in await driven.bench.store.log.read(name, 0) if item.entry is not None]
        assert [entry.token_count for entry in entries] == wanted
        assert [entry.delta for entry in entries] == [deltas[count - 1] for count in wanted]
        assert {entry.epoch for entry in entries} == {1}
    assert [(entry.index, entry.HasField("end")) for entry in entries] == [(0, False), (1, True), (0, False)]
    assert entries[1].end == end


@pytest.mark.parametrize("ends", ["finished", "requeued"])
async def test_a_worker_that_claims_its_own_generation_again_goes_on(driven: Driven, ends: str) -> None:
    """As after a pause longer than the lease, when nobody else took over."""
    generation_id = await driven.bench.submit()
    await driven.begin(await driven.bench.take())
    await driven.begin(await take_over(driven.bench))
    assert [one.key for one in driven.engine.started] == [1, 2]
    assert driven.engine.cancelled == [1], "the outdated one is stopped"
    assert len(driven.driver.roster) == 1
    await driven.renewal.renew()
    if ends == "requeued":
        await driven.driver.endings.requeue_all("the test wants it")
        assert (await driven.record(generation_id)).state == generation_pb2.GENERATION_STATE_QUEUED
    else:
        driven.finish(1, 3)  # came too late
        driven.finish(2, 3)
        record = await driven.is_over(generation_id)
        assert (record.state, record.last) == (generation_pb2.GENERATION_STATE_FINISHED, 3)
    # Its end is in Redis a moment before the worker hears of it.
    await eventually(lambda: len(driven.driver.roster) == 0, "the worker has let it go")


async def test_a_late_answer_about_an_outdated_fence_loses_nothing(driven: Driven) -> None:
    """As when a renewal is answered FENCED while the worker claims the generation again."""
    await driven.bench.submit()
    claim = await driven.bench.take()
    await driven.begin(claim)
    renewing, answered = driven.bench.store.attempts.renew, asyncio.Event()

    async def slow(owned: Any) -> Any:
        outcomes = await renewing(owned)
        await answered.wait()
        return outcomes

    newer = await take_over(driven.bench)
    driven.renewal._store.renew = slow  # type: ignore[method-assign]
    late = asyncio.create_task(driven.renewal.renew())
    await asyncio.sleep(0)
    await driven.begin(newer)
    answered.set()
    await late
    assert driven.driver.roster.owned() == [(newer.record.generation_id, newer.fence)]


async def test_an_expired_generation_ends_although_redis_was_away_for_too_long(own_redis: RedisServer) -> None:
    connection = RedisConnection(own_redis.url, patience=0.1)
    await connection.wait_until_ready()
    bench = Bench(assemble(connection, StoreLimits(lease_ms=60_000)), Redis.from_url(own_redis.url))
    await bench.store.queue.prepare(MODEL)
    driven = Driven(bench)
    generation_id = await bench.submit(time_limit_ms=300)
    await driven.begin(await bench.take())
    failed = asyncio.Event()
    write = bench.store.attempts.write

    async def noted(*arguments: Any) -> Any:
        try:
            return await write(*arguments)
        except Exception:
            failed.set()
            raise

    bench.store.attempts.write = noted  # type: ignore[assignment,method-assign]
    own_redis.kill()
    await asyncio.wait_for(failed.wait(), 30)  # its deadline has passed, and that could not be written
    assert driven.engine.cancelled == [1], "so no frame will ever end it"
    own_redis.start()
    assert (await driven.is_over(generation_id)).state == generation_pb2.GENERATION_STATE_EXPIRED
    await eventually(lambda: len(driven.driver.roster) == 0, "the worker has let it go")
    driven._relaying.cancel()
    await bench.client.aclose()
    await connection.close()


async def test_an_end_that_cannot_be_written_at_all_keeps_no_lease(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    await driven.bench.submit()
    await driven.begin(await driven.bench.take())

    async def broken(*_: Any) -> Any:
        raise ValueError("a reply that nobody understands")

    monkeypatch.setattr(driven.bench.store.attempts, "write", broken)
    (execution,) = driven.driver.roster.executions
    driven.driver.endings.cancel(execution)
    await eventually(lambda: len(driven.driver.roster) == 0, "it is left to its lease")


async def test_a_cancel_while_the_log_is_read_starts_nothing(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    generation_id = await driven.bench.submit()
    claim = await driven.bench.take("w0")
    await driven.bench.append(claim, 0, 3)
    claim = await take_over(driven.bench)
    execution = driven.driver.take_up(claim)
    reading, read_on = asyncio.Event(), asyncio.Event()
    read_whole = driven.bench.store.log.read_whole

    async def slow(name: str) -> Any:
        items = await read_whole(name)
        reading.set()
        await read_on.wait()
        return items

    monkeypatch.setattr(driven.bench.store.log, "read_whole", slow)
    starting = asyncio.create_task(driven.driver.start(execution))
    await reading.wait()
    async with driven.driver._writing:  # as when a frame is being written: the end has to wait
        driven.driver.endings.cancel(execution)
        read_on.set()
        await starting
    assert driven.engine.started == []
    assert (await driven.is_over(generation_id)).state == generation_pb2.GENERATION_STATE_CANCELLED


@pytest.mark.parametrize("damage", ["gone", "first entry gone", "last entry gone"])
async def test_a_damaged_log_is_the_matter_of_one_generation(driven: Driven, damage: str) -> None:
    generation_id = await driven.bench.submit()
    claim = await driven.bench.take("w0")
    for before in (0, 3, 6):
        await driven.bench.append(claim, before, before + 3)
    claim = await take_over(driven.bench)
    log, client = keys.log(generation_id, 0), driven.bench.client
    if damage == "gone":
        await client.delete(log)
    else:
        await client.xdel(log, "3-0" if damage.startswith("first") else "9-0")
    await driven.begin(claim)
    record = await driven.is_over(generation_id)
    assert record.state == generation_pb2.GENERATION_STATE_FAILED
    assert driven.engine.started == [], "begun anew, it would repeat what its readers have seen"
    terminal = await driven.terminal(generation_id)
    assert terminal.error.code == DataLossError.code


async def test_another_engine_ends_what_nobody_can_go_on_with(bench: Bench) -> None:
    generation_id = await bench.submit()
    claim = await bench.take("w0")
    await bench.append(claim, 0, 3)
    driven = Driven(bench, "f2")
    await driven.begin(await take_over(bench))
    assert (await driven.is_over(generation_id)).state == generation_pb2.GENERATION_STATE_FAILED
    assert (await driven.terminal(generation_id)).error.code == GenerationAbortedError.code
    driven._relaying.cancel()

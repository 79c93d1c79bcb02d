"""ClientProcess processes of the load generator."""

import io
from pathlib import Path

import pytest

from bench.clients import messages
from bench.clients.messages import Ended, Outcome
from bench.clients.pool import ClientEndedError, ClientPool, ClientProcess
from bench.clients.process import ProgressReport
from bench.load.measuring import Sample
from bench.load.plan import OfferedLoad
from bench.load.workload import Workload


def test_messages_arrive_one_after_another_until_the_pipe_ends() -> None:
    sent = [Ended(3), Outcome([Sample(1.0, [(2.0, 3)], hops={"relay": 0.5})], 0.25), 17.5]
    pipe = io.BytesIO(b"".join(messages.pack(message) for message in sent))
    assert [messages.receive(pipe) for _ in sent] == sent
    assert messages.receive(pipe) is None


def test_progress_is_told_at_intervals_and_counts_all(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("bench.clients.process.time.monotonic", lambda: now[0])
    told: list[object] = []
    report = ProgressReport(told.append)
    for instant in (100.1, 100.2, 100.6, 100.7, 101.2):
        now[0] = instant
        report(Sample(0.0))
    assert told == [Ended(3), Ended(2)]


async def test_a_client_process_that_is_gone_is_told_with_its_log(tmp_path: Path) -> None:
    client = ClientProcess(tmp_path / "client.log")
    await client.start()
    await client.close()
    with pytest.raises(ClientEndedError, match=r"client\.log"):
        await client.receive()


async def test_requests_that_nobody_answers_are_refused_with_the_reason(tmp_path: Path) -> None:
    pool = ClientPool(2, tmp_path, ["127.0.0.1:1"])
    try:
        await pool.start()
        await pool.warm_up(OfferedLoad(Workload(), concurrency=3, rounds=2), 1)
        outcomes = await pool.measure(lambda _: None)
    finally:
        await pool.close()
    assert [len(outcome.samples) for outcome in outcomes] == [4, 2]
    assert {sample.refusal for outcome in outcomes for sample in outcome.samples} == {"UNAVAILABLE"}
    assert all(outcome.cpu_seconds > 0 for outcome in outcomes)

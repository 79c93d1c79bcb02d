"""Client processes of the load generator."""

import io
from pathlib import Path

import pytest

from bench import messages
from bench.driver import ProgressReport
from bench.drivers import Driver, DriverEndedError, Drivers
from bench.measuring import Sample
from bench.messages import Ended, Outcome
from bench.plan import Load
from bench.workload import Workload


def test_messages_arrive_one_after_another_until_the_pipe_ends() -> None:
    sent = [Ended(3), Outcome([Sample(1.0, [(2.0, 3)], hops={"relay": 0.5})], 0.25), 17.5]
    pipe = io.BytesIO(b"".join(messages.pack(message) for message in sent))
    assert [messages.receive(pipe) for _ in sent] == sent
    assert messages.receive(pipe) is None


def test_progress_is_told_at_intervals_and_counts_all(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("bench.driver.time.monotonic", lambda: now[0])
    told: list[object] = []
    report = ProgressReport(told.append)
    for instant in (100.1, 100.2, 100.6, 100.7, 101.2):
        now[0] = instant
        report(Sample(0.0))
    assert told == [Ended(3), Ended(2)]


async def test_a_client_process_that_is_gone_is_told_with_its_log(tmp_path: Path) -> None:
    driver = Driver(tmp_path / "client.log")
    await driver.start()
    await driver.close()
    with pytest.raises(DriverEndedError, match=r"client\.log"):
        await driver.receive()


async def test_requests_that_nobody_answers_are_refused_with_the_reason(tmp_path: Path) -> None:
    drivers = Drivers(2, tmp_path, ["127.0.0.1:1"])
    try:
        await drivers.start()
        await drivers.warm_up(Load(Workload(), concurrency=3, rounds=2), 1)
        outcomes = await drivers.measure(lambda _: None)
    finally:
        await drivers.close()
    assert [len(outcome.samples) for outcome in outcomes] == [4, 2]
    assert {sample.refusal for outcome in outcomes for sample in outcome.samples} == {"UNAVAILABLE"}
    assert all(outcome.cpu_seconds > 0 for outcome in outcomes)

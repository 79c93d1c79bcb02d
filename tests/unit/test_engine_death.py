"""What is said of a generation whose engine has died."""

import pytest
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN

from broker_worker import engine_death
from broker_worker.execution import Execution, State
from tokenrelay.clock import PeerClock
from tokenrelay.engine.v1 import engine_service_pb2
from tokenrelay.store.records import Record
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import Requeue

ENGINE = engine_service_pb2.DescribeEngineResponse(engine="simulated", engine_version="1", fingerprint="f", slots=8)
ID = "0-" + "0" * 32


def execution(engine_deaths: int = 0) -> Execution:
    job = store_pb2.Job(model="demo", n=1, trace_id="t")
    fields = {b"state": b"2", b"job": job.SerializeToString(), b"spec": b"spec", b"last": b"7", b"epoch": b"3"}
    fields |= {b"submitted_us": b"5", b"history": b"10,11,7;20,20,7;", b"claimed_us": b"30"}
    record = Record.parse(ID, fields | ({b"engine_deaths": str(engine_deaths).encode()} if engine_deaths else {}))
    return Execution(
        key=1,
        fence="3:n",
        record=record,
        span=INVALID_SPAN,
        context=Context(),
        last=record.last,
        slots=1,
        began_alone=True,
        state=State.STRICKEN,
        dispatched_ns=1,
    )


def requeue(one: Execution) -> Requeue:
    clock = PeerClock()
    clock.observe(0, 0, 0)
    return engine_death.requeue(one, ENGINE, "w1", clock)


@pytest.mark.parametrize("state", [State.CLAIMED, State.DISPATCHED, State.PROVEN])
@pytest.mark.parametrize("engine_deaths", [0, 1])
def test_what_cannot_be_the_cause_is_only_requeued(engine_deaths: int, state: State) -> None:
    one = execution(engine_deaths)
    one.state = state
    assert requeue(one) == Requeue(ID, "3:n")


def test_the_first_death_counts() -> None:
    assert requeue(execution()) == Requeue(ID, "3:n", engine_died=True)


def test_one_that_was_not_alone_is_judged_the_next_time() -> None:
    one = execution(engine_deaths=1)
    one.began_alone = False
    assert requeue(one) == Requeue(ID, "3:n", engine_died=True)


def test_a_suspect_s_death_says_what_becomes_of_it() -> None:
    given = requeue(execution(engine_deaths=1))
    assert given.engine_died
    assert given.terminal is not None
    assert given.letter is not None
    assert "the engine crashed twice on this prompt" in given.terminal.error.message
    assert (given.terminal.trace_id, len(given.terminal.timeline.lost_attempts)) == ("t", 2)
    letter = given.letter
    assert (letter.generation_id, letter.spec, letter.job.model, letter.sequence) == (ID, b"spec", "demo", 7)
    assert (letter.worker_id, letter.engine, letter.engine_version, letter.fingerprint) == ("w1", "simulated", "1", "f")
    assert letter.reason == given.terminal.error
    assert letter.timeline == given.terminal.timeline


def test_what_has_few_tokens_is_judged_first() -> None:
    executions = [execution() for _ in range(3)]
    for one, last in zip(executions, (500, 0, 7), strict=True):
        one.last = last
    assert [one.last for one in engine_death.likeliest_first(executions)] == [0, 7, 500]

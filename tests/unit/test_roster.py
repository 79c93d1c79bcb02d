"""What is in a worker's hands, and who is let go when a generation is there twice."""

import asyncio

import pytest
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN
from prometheus_client import CollectorRegistry

from broker_worker.execution import Execution, State
from broker_worker.roster import Roster
from tokenrelay.metrics import WorkerMetrics
from tokenrelay.store.records import Record
from tokenrelay.store.v1 import store_pb2

ID = "0-" + "0" * 32


def execution(key: int, *, epoch: int = 1, n: int = 1, slots: int = 1, engine_deaths: int = 0) -> Execution:
    job = store_pb2.Job(model="demo", n=n)
    fields = {b"state": b"2", b"job": job.SerializeToString(), b"last": b"0", b"epoch": b"%d" % epoch, b"submitted_us": b"5"}
    record = Record.parse(ID, fields | ({b"engine_deaths": b"%d" % engine_deaths} if engine_deaths else {}))
    return Execution(key, f"{epoch}:n", record, INVALID_SPAN, Context(), record.last, slots)


class Hands:
    """A roster, and how often it said that there is room."""

    def __init__(self) -> None:
        self.freed = 0
        self.metrics = WorkerMetrics(CollectorRegistry())
        self.roster = Roster(self.metrics, self._free)

    def _free(self) -> None:
        self.freed += 1


def test_an_outdated_execution_takes_nothing_of_the_newer_one_with_it() -> None:
    roster = Hands().roster
    stale, newer = execution(1), execution(2, epoch=3)
    roster.add(stale)
    roster.add(newer)
    roster.remove(stale)
    assert (stale.is_over, newer.is_over) == (True, False)
    assert roster.by_id(ID) is newer
    assert roster.owned() == [(ID, "3:n")]
    roster.remove(newer)
    assert (roster.by_id(ID), roster.owned(), len(roster)) == (None, [], 0)


def test_what_is_over_can_be_let_go_again() -> None:
    hands = Hands()
    one, other = execution(1), execution(2, epoch=2)
    hands.roster.add(one)
    for _ in range(2):
        hands.roster.remove(one)
    hands.roster.remove(other)
    assert hands.freed == 1
    assert other.state is State.CLAIMED, "it was never here"


async def test_it_is_idle_when_the_last_one_is_over() -> None:
    roster = Hands().roster
    executions = [execution(key, epoch=key) for key in (1, 2)]
    for one in executions:
        roster.add(one)
    idle = asyncio.ensure_future(roster.wait_until_idle())
    roster.remove(executions[0])
    await asyncio.sleep(0)
    assert not idle.done()
    roster.remove(executions[1])
    await asyncio.wait_for(idle, 10)


def test_a_suspect_frees_slots_with_its_first_tokens() -> None:
    hands = Hands()
    suspect = execution(1, slots=8, engine_deaths=1)
    hands.roster.add(suspect)
    suspect.dispatch()
    assert (hands.roster.used_slots, hands.roster.has_only_cleared_suspects) == (8, False)
    assert [hands.roster.prove(suspect, instant) for instant in (70, 80)] == [True, False]
    assert (hands.roster.used_slots, hands.roster.has_only_cleared_suspects, hands.freed) == (1, True, 1)
    assert suspect.first_logged_us == 70


@pytest.mark.parametrize(
    ("transitions", "expected"),
    [
        ([], State.CLAIMED),
        (["strike"], State.CLAIMED),
        (["dispatch"], State.DISPATCHED),
        (["dispatch", "strike"], State.STRICKEN),
        (["dispatch", "prove"], State.PROVEN),
        (["dispatch", "prove", "strike"], State.PROVEN),
        (["dispatch", "strike", "prove"], State.PROVEN),
        (["dispatch", "let_go"], State.OVER),
        (["dispatch", "let_go", "strike"], State.OVER),
        (["dispatch", "let_go", "prove"], State.OVER),
    ],
)
def test_an_execution_goes_from_state_to_state(transitions: list[str], expected: State) -> None:
    one = execution(1)
    for name in transitions:
        getattr(one, name)(*((7,) if name == "prove" else ()))
    assert one.state is expected

"""Which of the entries that were read may be claimed next."""

import pytest

from broker_worker import admission_queue as queue_module
from broker_worker.admission_queue import AdmissionQueue, Load
from tokenrelay.store.values import QueueEntry

SLOTS = 4
IDLE = Load(0, SLOTS, only_cleared=True)
FULL = Load(SLOTS, SLOTS)


def entry(name: str, choices: int = 1, *, deaths: int = 0) -> QueueEntry:
    return QueueEntry(name, "jobs", f"{name}-0", choices, deaths)


def waiting(*entries: QueueEntry) -> AdmissionQueue:
    found = AdmissionQueue()
    found.add(entries)
    return found


def busy(taken: int) -> Load:
    return Load(taken, SLOTS)


def cleared(taken: int) -> Load:
    """That of suspects which have given tokens."""
    return Load(taken, SLOTS, only_cleared=True)


def taken_by(found: AdmissionQueue, load: Load, most: int = 10) -> list[str]:
    has_next = found.has_next(load)
    batch = found.take(load, most)
    assert has_next == bool(batch)
    return [candidate.entry.generation_id for candidate in batch]


def test_what_fits_is_taken_in_order() -> None:
    found = waiting(entry("a"), entry("b", 2), entry("c", 2), entry("d"))
    assert taken_by(found, busy(1)) == ["a", "b"]
    assert taken_by(found, busy(3)) == [], "what comes after does not pass what is too large"
    assert taken_by(found, IDLE, most=1) == ["c"]
    assert [one.generation_id for one in found] == ["d"]


def test_what_is_larger_than_the_engine_runs_when_nothing_else_does() -> None:
    found = waiting(entry("large", SLOTS + 1), entry("a"))
    assert taken_by(found, busy(1)) == []
    assert taken_by(found, IDLE) == ["large"]


def test_a_suspect_goes_first_and_alone_when_nothing_runs() -> None:
    found = waiting(entry("a"), entry("s", deaths=1))
    assert taken_by(found, IDLE) == ["s"]
    assert taken_by(found, FULL) == [], "while it may be the cause, it has all slots"
    assert taken_by(found, cleared(1)) == ["a"], "others join it once it has given a token"


def test_suspects_follow_one_another_before_others_join() -> None:
    found = waiting(entry("a"), *(entry(name, deaths=1) for name in "rst"))
    assert [taken_by(found, load) for load in (IDLE, cleared(1), cleared(2))] == [["r"], ["s"], ["t"]]
    assert taken_by(found, cleared(3)) == ["a"]


def test_a_suspect_joins_nothing_else() -> None:
    found = waiting(entry("a"), entry("b"), entry("s", deaths=1), entry("t", 3, deaths=1))
    assert taken_by(found, busy(1), most=1) == ["a"]
    assert taken_by(found, IDLE) == ["s"]
    assert taken_by(found, cleared(2)) == ["b"], "the other one is too large"
    assert taken_by(found, busy(1)) == []


def test_one_that_has_seen_more_deaths_goes_first_and_joins_not_even_suspects() -> None:
    found = waiting(entry("s", deaths=1), entry("twice", deaths=2), entry("t", deaths=1))
    assert taken_by(found, cleared(1)) == []
    assert [taken_by(found, load) for load in (IDLE, cleared(1), cleared(2))] == [["twice"], ["s"], ["t"]]


def test_a_suspect_lets_others_pass_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    found = waiting(entry("s", deaths=1), entry("a"), entry("b"))
    assert taken_by(found, busy(1), most=1) == ["a"]
    monkeypatch.setattr(queue_module, "SUSPECT_PATIENCE", 0.0)
    assert found.holds_back
    assert taken_by(found, busy(1)) == []
    assert taken_by(found, IDLE) == ["s"]
    assert taken_by(found, busy(1)) == ["b"]


def test_a_suspect_that_is_somebody_else_s_holds_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_module, "SUSPECT_PATIENCE", 0.0)
    found = waiting(entry("s", deaths=1), entry("t", deaths=1), entry("a"))
    for suspect in found.suspects:
        assert found.holds_back
        found.forget(suspect)
    assert taken_by(found, busy(1)) == ["a"]


def test_what_could_not_be_claimed_keeps_its_place_and_its_nonce() -> None:
    found = waiting(entry("s", deaths=1), entry("a"), entry("b"), entry("c"), entry("t", deaths=1))
    suspect, ordinary = found.take(IDLE, 10), found.take(busy(1), 2)
    found.put_back(ordinary)
    found.put_back(suspect)
    assert [one.generation_id for one in found] == ["a", "b", "c", "s", "t"]
    assert found.take(IDLE, 10) == suspect
    assert found.take(busy(1), 2) == ordinary
    assert [one.generation_id for one in found.clear()] == ["c", "t"]
    assert (len(found), found.ordinary, found.suspects) == (0, 0, [])

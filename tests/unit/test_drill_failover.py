"""What the checker accepts where a new primary of Redis lacked something, and how standstills are measured."""

import hashlib
import math
import struct

import pytest

from drills.checker import check
from drills.history import Event
from drills.timings import Outage, outages, standstills
from engine_service.engines.simulated.simulation import expected_tokens, text_of
from tokenrelay.v1 import generation_pb2 as g

PROMPT, MAX_TOKENS, NAME, KEY = "a prompt", 20, "0-name", "key"
TOKENS = list(expected_tokens(g.GenerationSpec(text=PROMPT, sampling_params=g.SamplingParams(max_tokens=MAX_TOKENS))))
ANSWERS = ("accepted", "delta")
SEEN = 12  # tokens that the reader got before the former primary ended, at 100.0


def told(history: list[Event]) -> list[str]:
    return sorted({violation.invariant for violation in check(history)})


def history(*, promoted: dict[str, list[int | bool]], end: Event, log: int | None) -> list[Event]:
    """Returns a history with a reader that saw some tokens, a promotion, the reader's end, and what Redis holds in the end."""
    of_it = {"call": 1, "id": NAME}
    entries = [] if log is None else [(log, 1, TOKENS[:log])]
    state = "FINISHED" if log == len(TOKENS) else "CANCELLED"
    logged = {
        "kind": "log",
        "id": NAME,
        "state": state,
        "key_hash": hashlib.sha256(KEY.encode()).hexdigest(),
        "entries": entries,
        "text": text_of(TOKENS[: log or 0]),
        "terminals": 1,
        "attempts": [],
        "reason": None,
    }
    asked = {"client": "stub", "method": "GenerateStream", "prompt": PROMPT, "max_tokens": MAX_TOKENS, "key": KEY}
    delta = {"sequence": SEEN, "tokens": TOKENS[:SEEN], "text": text_of(TOKENS[:SEEN])}
    idle = dict.fromkeys(("pending", "queued", "due", "depth", "running"), 0)
    events: list[Event] = [
        {"at": 90.0, "kind": "drill", "engine": "simulated", "allowed": []},
        {"at": 91.0, "kind": "call", "call": 1, **asked},
        {"at": 92.0, "kind": "accepted", **of_it},
        {"at": 99.9, "kind": "delta", **of_it, **delta},
        {"at": 101.0, "kind": "promoted", "target": "replica", "since": 100.0, "until": 100.5, "logs": promoted},
        {"at": 103.0, **of_it, **end},
        {"at": 110.0, "kind": "idle", **idle, "without_expiry": []},
        *([] if log is None else [{"at": 110.0, **logged}]),
        {"at": 111.0, "kind": "end"},
    ]
    return events


def failed(reason: str) -> Event:
    return {"kind": "failed", "code": 15, "reason": reason, "message": "lost"}


def test_who_had_seen_more_than_the_new_primary_has_may_be_told_so() -> None:
    assert told(history(promoted={NAME: [SEEN - 1, False]}, end=failed("LOG_LOST"), log=SEEN - 1)) == []
    assert told(history(promoted={NAME: [SEEN - 1, False]}, end=failed("LOG_LOST"), log=len(TOKENS))) == []
    assert told(history(promoted={}, end=failed("LOG_LOST"), log=None)) == []
    assert told(history(promoted={}, end=failed("GENERATION_NOT_FOUND"), log=None)) == []


def test_who_had_seen_no_more_may_not_be_told_so() -> None:
    assert "terminal" in told(history(promoted={NAME: [SEEN, False]}, end=failed("LOG_LOST"), log=len(TOKENS)))
    assert "terminal" in told(history(promoted={NAME: [SEEN, False]}, end=failed("GENERATION_NOT_FOUND"), log=len(TOKENS)))


def test_nothing_but_a_loss_may_be_told() -> None:
    for reason in ("INTERNAL", "UNAVAILABLE", "ABORTED", "OUT_OF_RANGE"):
        assert "terminal" in told(history(promoted={NAME: [0, False]}, end=failed(reason), log=len(TOKENS)))


@pytest.mark.parametrize("known", [None, NAME], ids=["never", "with the error"])
def test_who_learns_its_generation_s_id_never_or_with_the_error_may_be_told_that_it_is_lost(known: str | None) -> None:
    def without_answers(events: list[Event]) -> list[Event]:
        kept = [event for event in events if event["kind"] not in ANSWERS]
        return [{**event, "id": known} if event["kind"] == "failed" else event for event in kept]

    assert told(without_answers(history(promoted={}, end=failed("LOG_LOST"), log=None))) == []
    events = without_answers(history(promoted={NAME: [0, False]}, end=failed("LOG_LOST"), log=len(TOKENS)))
    assert told(events) == ["terminal"]


def test_what_the_new_primary_has_may_not_be_gone() -> None:
    assert "terminal" in told(history(promoted={NAME: [SEEN - 1, False]}, end=failed("LOG_LOST"), log=None))


def test_a_lost_reader_s_tokens_are_checked_too() -> None:
    events = history(promoted={NAME: [3, False]}, end=failed("LOG_LOST"), log=3)
    (delta,) = [event for event in events if event["kind"] == "delta"]
    delta["tokens"] = [*delta["tokens"][:-1], delta["tokens"][-1] + 1]
    assert told(events) == ["faithful"]


def test_who_went_on_after_a_loss_must_have_got_the_right_tokens() -> None:
    rest = {"kind": "finished", "sequence": len(TOKENS), "attempts": 2, "exact": True}
    events = history(promoted={NAME: [SEEN - 1, False]}, end=rest, log=len(TOKENS))
    place = next(number for number, event in enumerate(events) if event["kind"] == "finished")
    events[place]["digest"] = hashlib.sha256(struct.pack(f"<{len(TOKENS) + 1}I", len(TOKENS), *TOKENS)).hexdigest()
    whole, had = text_of(TOKENS), text_of(TOKENS[:SEEN])
    delta = {"kind": "delta", "call": 1, "id": NAME, "sequence": len(TOKENS), "tokens": TOKENS[SEEN:]}
    events.insert(place, {"at": 102.5, **delta, "text": whole.removeprefix(had)})
    assert told(events) == []
    events[place]["tokens"] = TOKENS[SEEN:-1]
    assert "contiguous" in told(events)


def test_a_standstill_is_measured_from_the_primary_s_return() -> None:
    def seen(call: int, *times: float) -> list[Event]:
        asked = {"kind": "call", "call": call, "method": "GenerateStream"}
        first, *rest = times
        return [{"at": first, **asked}, *({"at": at, "kind": "delta", "call": call} for at in rest)]

    events: list[Event] = [
        {"at": 10.0, "kind": "fault", "fault": "kill -9", "target": "redis"},
        {"at": 11.0, "kind": "serving", "target": "redis", "died_at": 10.1},
        *seen(1, 5.0, 9.9, 12.0, 12.1),  # waits for 1.0 s
        *seen(2, 5.0, 11.5, 14.0, 14.1),  # waits for 2.5 s, after a first token
        *seen(3, 5.0, 9.0),  # was over before
        *seen(4, 20.0, 29.0),  # begins when all is long over
    ]
    (outage,) = outages(events)
    assert outage == Outage("kill -9", 10.1, 11.0, math.inf)
    assert sorted(round(wait, 6) for wait in standstills(events, outage, 3.0).seconds) == [1.0, 2.5]

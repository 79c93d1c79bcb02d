"""Checks a history, and nothing else, for what must hold whatever is killed:

1. terminal: every accepted generation ends exactly once, and every user is told how.
2. contiguous: every reader gets every token after the place where it joined, once and in order.
3. agreement: all readers of a generation get the same, and what they get is what the log holds.
4. faithful: the log holds what an undisturbed engine would have said, token for token and byte for byte.
5. fenced: after a takeover nothing is written by an attempt before it.
6. durable: what a client has seen is on disk when Redis dies.
7. once: an idempotency key stands for one generation; a request that was refused left none.
8. idle: afterwards nothing waits, hangs or runs, and every key of a finished generation will expire.
9. isolated: no reader gets what was made for another one's prompt.

And it is no good sign if a process ended that nobody had killed.
"""

import hashlib
import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from drills.history import Event
from engine_service.engines.simulated.simulation import expected_tokens, text_of
from tokenrelay.v1 import generation_pb2 as g

MOST_OF_A_KIND = 20  # violations of one invariant that are told one by one


@dataclass(frozen=True)
class Violation:
    """Something that must not have happened: which invariant, about what, and what was seen."""

    invariant: str
    subject: str
    seen: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.subject}: {self.seen}"


@dataclass
class _Call:
    """A user's call and all that came of it."""

    asked: Event
    events: list[Event] = field(default_factory=list)

    @property
    def number(self) -> int:
        return int(self.asked["call"])

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["kind"] == kind]

    @property
    def ids(self) -> set[str]:
        """The generations that it was told about; more than one is a violation."""
        named = {event["id"] for event in self.events if event.get("id")}
        return named | ({self.asked["id"]} if "id" in self.asked else set())


@dataclass
class _Expectation:
    """What an undisturbed run says."""

    tokens: list[int]
    text: str


class History:
    """A history, sorted by what it is about."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.calls: dict[int, _Call] = {}
        self.logs: dict[str, Event] = {}
        self.others: dict[str, list[Event]] = defaultdict(list)
        for event in events:
            if event["kind"] == "call":
                self.calls[event["call"]] = _Call(event)
            elif "call" in event:
                self.calls[event["call"]].events.append(event)
            elif event["kind"] == "log":
                self.logs[event["id"]] = event
            else:
                self.others[event["kind"]].append(event)
        (self.drill,) = self.others["drill"]
        self._expected = {
            (one["prompt"], one["max_tokens"]): _Expectation(one["tokens"], one["text"]) for one in self.others["expected"]
        }
        self.calls_of: dict[str, list[_Call]] = defaultdict(list)
        for call in self.calls.values():
            for name in call.ids:
                self.calls_of[name].append(call)

    def expectation(self, asked: Event) -> _Expectation:
        """Returns what an undisturbed engine says to a call."""
        wanted = asked["prompt"], asked["max_tokens"]
        if wanted not in self._expected:
            assert self.drill["engine"] == "simulated", f"the history does not say what {wanted} should give"
            params = g.SamplingParams(max_tokens=asked["max_tokens"])
            tokens = list(expected_tokens(g.GenerationSpec(text=asked["prompt"], sampling_params=params)))
            self._expected[wanted] = _Expectation(tokens, text_of(tokens))
        return self._expected[wanted]

    def may_be_forgotten(self, generation_id: str) -> bool:
        """Tells whether Redis need not know of a generation any more: it was lost on purpose, or dropped after its end."""
        calls = self.calls_of[generation_id]
        begun = min(call.asked["at"] for call in calls)
        if any(begun < fault["at"] for fault in self.others["fault"] if fault["fault"] == "FLUSHALL"):
            return True
        return bool(self.drill.get("drops_finished")) and any(call.of("finished") + call.of("left") for call in calls)

    def begun_by(self, generation_id: str) -> Event | None:
        """Returns the call that a generation was begun by, None if no client ever learned its id."""
        for call in self.calls_of.get(generation_id, []):
            if "prompt" in call.asked:
                return call.asked
        return None


def check(events: Iterable[Event]) -> list[Violation]:
    """Returns what a history shows that must not have happened."""
    history = History(events)
    found: list[Violation] = []
    for invariant in (
        _terminal,
        _contiguous,
        _agreement,
        _faithful,
        _faithful_if_forgotten,
        _fenced,
        _durable,
        _once,
        _idle,
        _isolated,
        _alive,
        _complete,
    ):
        found += list(invariant(history))[:MOST_OF_A_KIND]
    return found


def _terminal(history: History) -> Iterator[Violation]:
    for name in history.calls_of:
        entry = history.logs.get(name)
        if entry is None and history.may_be_forgotten(name):
            continue
        if entry is None:
            yield Violation("terminal", name, "it was accepted, and Redis knows nothing of it")
        elif entry["terminals"] != 1:
            yield Violation("terminal", name, f"its log has {entry['terminals']} terminal records")
        elif (reason := _unexpected_end(history, entry)) is not None:
            yield Violation("terminal", name, reason)
    for call in history.calls.values():
        ends = call.of("finished") + call.of("failed") + call.of("left")
        followed = bool(call.of("finished") or call.of("failed"))
        if not ends:
            yield Violation("terminal", f"call {call.number}", "it never ended")
        elif len(call.of("finished")) + len(call.of("failed")) > 1:
            yield Violation("terminal", f"call {call.number}", "it ended more than once")
        elif followed and call.events[-1]["kind"] not in ("finished", "failed"):
            yield Violation("terminal", f"call {call.number}", f"after its end came a {call.events[-1]['kind']}")
        for failure in call.of("failed"):
            if failure["reason"] not in history.drill["allowed"]:
                told = f"{failure['reason']}: {failure.get('message')}"
                yield Violation("terminal", f"call {call.number}", f"its user got an error: {told}")


def _unexpected_end(history: History, entry: Event) -> str | None:
    """Tells what is wrong with how a generation ended, if it is known that somebody wanted it."""
    state = entry["state"]
    if state == "FINISHED":
        return None
    calls = history.calls_of[entry["id"]]
    if state == "CANCELLED" and any(left["why"] == "cancelled" for call in calls for left in call.of("left")):
        return None
    failed = [failure for call in calls for failure in call.of("failed")]
    if failed and all(failure["reason"] in history.drill["allowed"] for failure in failed):
        return None
    return f"it ended {state}: {entry['reason']}"


def _contiguous(history: History) -> Iterator[Violation]:
    for call in history.calls.values():
        position = call.asked.get("after", 0)
        for event in call.events:
            if event["kind"] == "delta":
                begins = event["sequence"] - len(event["tokens"])
                if begins != position:
                    yield Violation(
                        "contiguous",
                        f"call {call.number}",
                        f"after sequence {position} came {len(event['tokens'])} tokens up to {event['sequence']}",
                    )
                    break
                position = event["sequence"]
            elif event["kind"] == "finished" and event["sequence"] != position:
                yield Violation("contiguous", f"call {call.number}", f"it ended at {event['sequence']}, having read {position}")


def _agreement(history: History) -> Iterator[Violation]:
    for name, calls in history.calls_of.items():
        entry = history.logs.get(name)
        if entry is None:
            continue
        logged = _tokens(entry)
        for call in calls:
            for event in call.of("delta"):
                begins = event["sequence"] - len(event["tokens"])
                if event["tokens"] != logged[begins : event["sequence"]]:
                    yield Violation(
                        "agreement",
                        f"call {call.number}",
                        f"the tokens up to {event['sequence']} are not those in the log of {name}",
                    )
                    break
            for event in call.of("finished"):
                if event["sequence"] != len(logged):
                    yield Violation(
                        "agreement", f"call {call.number}", f"it ended at {event['sequence']}, the log at {len(logged)}"
                    )
                if event["digest"] != _digest(logged):
                    yield Violation("agreement", f"call {call.number}", "the digest does not fit the log")
                text = "".join(delta["text"] for delta in call.of("delta"))
                if call.asked.get("after", 0) == 0 and text != entry["text"]:
                    yield Violation(
                        "agreement", f"call {call.number}", f"its text is not the log's: {_difference(text, entry['text'])}"
                    )


def _faithful(history: History) -> Iterator[Violation]:
    for name, entry in history.logs.items():
        asked = history.begun_by(name)
        if asked is None:
            continue
        expected, logged = history.expectation(asked), _tokens(entry)
        finished = entry["state"] == "FINISHED"
        wanted = expected.tokens if finished else expected.tokens[: len(logged)]
        if logged != wanted:
            at = next((n for n, pair in enumerate(zip(logged, wanted, strict=False)) if pair[0] != pair[1]), len(wanted))
            yield Violation(
                "faithful",
                name,
                f"from token {at + 1} on it is not what it should be ({len(logged)} tokens, expected {len(wanted)})",
            )
        elif finished and entry["text"] != expected.text:
            yield Violation("faithful", name, f"its text is not what it should be: {_difference(entry['text'], expected.text)}")


def _faithful_if_forgotten(history: History) -> Iterator[Violation]:
    """What Redis has no log of any more is checked by what its readers got."""
    for name, calls in history.calls_of.items():
        asked = history.begun_by(name)
        if name in history.logs or asked is None:
            continue
        for call in calls:
            expected, got = history.expectation(asked).tokens, _received(call)
            first = call.asked.get("after", 0)
            wanted = expected[first:] if call.of("finished") else expected[first : first + len(got)]
            if got != wanted:
                yield Violation("faithful", f"call {call.number}", f"it got {len(got)} tokens that are not what they should be")


def _fenced(history: History) -> Iterator[Violation]:
    for name, entry in history.logs.items():
        ends = [attempt[2] for attempt in entry["attempts"]]
        if ends != sorted(ends):
            yield Violation("fenced", name, f"its attempts ended at sequences {ends}")
        for sequence, epoch, _ in entry["entries"]:
            later = [number for number, end in enumerate(ends, start=1) if sequence > end and number >= epoch]
            if later:
                yield Violation(
                    "fenced",
                    name,
                    f"attempt {epoch} wrote up to {sequence}, but attempt {later[-1]} was over at {ends[later[-1] - 1]}",
                )
                break


def _durable(history: History) -> Iterator[Violation]:
    for survived in history.others["survived"]:
        logs: dict[str, Sequence[Any]] = survived["logs"]
        for call in history.calls.values():
            seen = [event for event in call.events if event["at"] < survived["died_at"]]
            if not seen:
                continue
            for name in {event["id"] for event in seen if event.get("id")}:
                if name not in logs:
                    yield Violation("durable", name, "a client knew of it before Redis died, and it was not on disk")
                    continue
                last, is_terminal = logs[name]
                position = max((event["sequence"] for event in seen if "sequence" in event), default=0)
                if position > last:
                    yield Violation(
                        "durable", name, f"a client had seen up to {position} before Redis died; on disk was {last}"
                    )
                if not is_terminal and any(event["kind"] == "finished" for event in seen):
                    yield Violation("durable", name, "a client had seen its end before Redis died, and it was not on disk")


def _once(history: History) -> Iterator[Violation]:
    by_hash: dict[str, list[str]] = defaultdict(list)
    for name, entry in history.logs.items():
        if entry["key_hash"]:
            by_hash[entry["key_hash"]].append(name)
    for call in history.calls.values():
        if len(call.ids) > 1:
            yield Violation("once", f"call {call.number}", f"it was told of {len(call.ids)} generations")
        key = call.asked.get("key")
        if key is None:
            continue
        begun = by_hash[hashlib.sha256(key.encode()).hexdigest()]
        if len(begun) > 1:
            yield Violation("once", f"call {call.number}", f"its key stands for {len(begun)} generations")
        refused = [event for event in call.of("failed") if event["id"] is None and event["reason"] in REFUSALS]
        if refused and begun:
            yield Violation(
                "once", f"call {call.number}", f"it was refused with {refused[0]['reason']}, and yet there is {begun[0]}"
            )


# Reasons that say for certain that nothing was begun.
REFUSALS = ("QUEUE_FULL", "STORE_FULL", "INVALID_REQUEST", "MODEL_NOT_FOUND", "MESSAGE_TOO_LARGE")


def _idle(history: History) -> Iterator[Violation]:
    for event in history.others["idle"]:
        for what in ("pending", "queued", "running", "due", "depth", "without_expiry"):
            if what not in event:
                yield Violation("idle", what, "nobody could look at it afterwards")
            elif event[what]:
                yield Violation("idle", what, f"afterwards there was still {event[what]}")
    for name, entry in history.logs.items():
        if entry["terminals"] != 1 and name not in history.calls_of:
            yield Violation("idle", name, f"nobody knows of it, and it has {entry['terminals']} terminal records")


def _isolated(history: History) -> Iterator[Violation]:
    begins: dict[tuple[int, ...], str] = {}
    if history.drill["engine"] != "simulated":
        return  # a model may well say the same to two prompts
    length = 5
    for call in history.calls.values():
        if "prompt" in call.asked:
            begins[tuple(history.expectation(call.asked).tokens[:length])] = call.asked["prompt"]
    for call in history.calls.values():
        names = call.ids
        asked = history.begun_by(next(iter(names))) if names else None
        got = _received(call)[:length]
        if asked is None or call.asked.get("after", 0) or len(got) < length:
            continue
        owner = begins.get(tuple(got))
        if owner is not None and owner != asked["prompt"]:
            yield Violation(
                "isolated", f"call {call.number}", f"it asked {asked['prompt']!r} and got what was made for {owner!r}"
            )


def _alive(history: History) -> Iterator[Violation]:
    for event in history.others["exit"]:
        if not event["wanted"] and event["process"] not in history.drill.get("may_exit", []):
            yield Violation("alive", event["process"], f"it ended by itself with status {event['status']}")


def _complete(history: History) -> Iterator[Violation]:
    if not history.others["end"]:
        yield Violation("complete", "the history", "it breaks off")
    elif not history.others["idle"]:
        yield Violation("complete", "the history", "it does not say whether all came to rest")


def _tokens(entry: Event) -> list[int]:
    return [token for _, _, tokens in entry["entries"] for token in tokens]


def _received(call: _Call) -> list[int]:
    return [token for event in call.of("delta") for token in event["tokens"]]


def _digest(tokens: Sequence[int]) -> str:
    return hashlib.sha256(struct.pack(f"<{len(tokens) + 1}I", len(tokens), *tokens)).hexdigest()


def _difference(text: str, wanted: str) -> str:
    at = next(
        (n for n, (one, other) in enumerate(zip(text, wanted, strict=False)) if one != other), min(len(text), len(wanted))
    )
    return f"at character {at} {text[at : at + 20]!r} instead of {wanted[at : at + 20]!r}"

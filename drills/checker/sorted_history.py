"""A history, sorted by what its events are about."""

import hashlib
import struct
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from drills.history import Event
from engine_service.engines.simulated.simulation import expected_tokens, text_of
from tokenrelay.v1 import generation_pb2 as g

DELIVERY_SECONDS = 1.0  # what a former primary had at its end may be that long on its way to a reader


@dataclass
class Call:
    """A user's call and all that came of it."""

    asked: Event
    events: list[Event] = field(default_factory=list)

    @property
    def number(self) -> int:
        return int(self.asked["call"])

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["kind"] == kind]

    @property
    def last_sequence(self) -> int:
        """How far it has read."""
        begin = int(self.asked.get("after", 0))
        return max((event["sequence"] for event in self.events if "sequence" in event), default=begin)

    @property
    def ids(self) -> set[str]:
        """The generations that it was told about; more than one is a violation."""
        named = {event["id"] for event in self.events if event.get("id")}
        return named | ({self.asked["id"]} if "id" in self.asked else set())


@dataclass
class Expectation:
    """What an undisturbed run says."""

    tokens: list[int]
    text: str


class History:
    """A history, sorted by what it is about."""

    def __init__(self, events: Iterable[Event]) -> None:
        self.calls: dict[int, Call] = {}
        self.logs: dict[str, Event] = {}
        self.others: dict[str, list[Event]] = defaultdict(list)
        for event in events:
            if event["kind"] == "call":
                self.calls[event["call"]] = Call(event)
            elif "call" in event:
                self.calls[event["call"]].events.append(event)
            elif event["kind"] == "log":
                self.logs[event["id"]] = event
            else:
                self.others[event["kind"]].append(event)
        (self.drill,) = self.others["drill"]
        self._expected = {
            (one["prompt"], one["max_tokens"]): Expectation(one["tokens"], one["text"]) for one in self.others["expected"]
        }
        self.calls_of: dict[str, list[Call]] = defaultdict(list)
        for call in self.calls.values():
            for name in call.ids:
                self.calls_of[name].append(call)

    def expectation(self, asked: Event) -> Expectation:
        """Returns what an undisturbed engine says to a call."""
        wanted = asked["prompt"], asked["max_tokens"]
        if wanted not in self._expected:
            assert self.drill["engine"] == "simulated", f"the history does not say what {wanted} should give"
            params = g.SamplingParams(max_tokens=asked["max_tokens"])
            tokens = list(expected_tokens(g.GenerationSpec(text=asked["prompt"], sampling_params=params)))
            self._expected[wanted] = Expectation(tokens, text_of(tokens))
        return self._expected[wanted]

    def was_lost(self, call: Call) -> bool:
        """Tells whether a call has seen what a new primary of Redis lacked: tokens, an end, or the generation itself.

        Replication is asynchronous, so that the newest writes of the former primary may be gone.
        """
        return any(_saw_more(call, one) or self._was_never_told(call, one) for one in self.others["promoted"])

    def _was_never_told(self, call: Call, promoted: Event) -> bool:
        """Tells whether a call began a generation that the new primary lacks before it learned the generation's id."""
        told = any(event.get("id") for event in call.events if event["kind"] != "failed")
        if told or "key" not in call.asked or call.asked["at"] > promoted["until"]:
            return False
        if call.ids & set(promoted["logs"]):
            return False
        key_hash = hashlib.sha256(call.asked["key"].encode()).hexdigest()
        return not any(log["key_hash"] == key_hash and name in promoted["logs"] for name, log in self.logs.items())

    def is_lost(self, generation_id: str) -> bool:
        """Tells whether a new primary lacked something of a generation that somebody had seen."""
        return any(map(self.was_lost, self.calls_of[generation_id]))

    def may_be_told(self, call: Call, failure: Event) -> bool:
        """Tells whether an error may reach a user.

        That is so if the drill says it, or if the call was told that data is lost, and it was.
        """
        if failure["reason"] in self.drill["allowed"]:
            return True
        if failure["reason"] == "GENERATION_NOT_FOUND":
            return any(_knew_of(call, promoted) - set(promoted["logs"]) for promoted in self.others["promoted"])
        return failure["reason"] == "LOG_LOST" and self.was_lost(call)

    def may_be_forgotten(self, generation_id: str) -> bool:
        """Tells whether Redis need not know of a generation any more: it was lost on purpose, or dropped after its end."""
        calls = self.calls_of[generation_id]
        begun = min(call.asked["at"] for call in calls)
        if any(begun < fault["at"] for fault in self.others["fault"] if fault["fault"] == "FLUSHALL"):
            return True
        if any(generation_id not in one["logs"] and begun < one["until"] for one in self.others["promoted"]):
            return True
        return bool(self.drill.get("drops_finished")) and any(call.of("finished") + call.of("left") for call in calls)

    def begun_by(self, generation_id: str) -> Event | None:
        """Returns the call that a generation was begun by, None if no client ever learned its id."""
        for call in self.calls_of.get(generation_id, []):
            if "prompt" in call.asked:
                return call.asked
        return None


def _knew_of(call: Call, promoted: Event) -> set[str]:
    """Returns the generations that a call knew of when the former primary took its last write."""
    named = {event["id"] for event in call.events if event.get("id") and event["at"] < promoted["until"] + DELIVERY_SECONDS}
    is_attach = "id" in call.asked and call.asked["at"] < promoted["until"] + DELIVERY_SECONDS
    return named | ({call.asked["id"]} if is_attach else set())


def _saw_more(call: Call, promoted: Event) -> bool:
    logs: dict[str, Sequence[Any]] = promoted["logs"]
    seen = [event for event in call.events if event["at"] < promoted["until"] + DELIVERY_SECONDS]
    for name in _knew_of(call, promoted):
        if name not in logs:
            return True
        last, is_terminal = logs[name]
        position = max((event["sequence"] for event in seen if "sequence" in event), default=call.asked.get("after", 0))
        if position > last or (not is_terminal and any(event["kind"] == "finished" for event in seen)):
            return True
    return False


def logged_tokens(entry: Event) -> list[int]:
    return [token for _, _, tokens in entry["entries"] for token in tokens]


def received_tokens(call: Call) -> list[int]:
    return [token for event in call.of("delta") for token in event["tokens"]]


def digest(tokens: Sequence[int]) -> str:
    return hashlib.sha256(struct.pack(f"<{len(tokens) + 1}I", len(tokens), *tokens)).hexdigest()


def difference(text: str, wanted: str) -> str:
    at = next(
        (n for n, (one, other) in enumerate(zip(text, wanted, strict=False)) if one != other), min(len(text), len(wanted))
    )
    return f"at character {at} {text[at : at + 20]!r} instead of {wanted[at : at + 20]!r}"

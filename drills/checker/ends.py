"""How generations, calls and processes ended: terminal, once, idle, alive, complete."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator

from drills.checker.sorted_history import History
from drills.checker.violation import Violation
from drills.history import Event

# Reasons that say for certain that nothing was begun.
REFUSALS = ("QUEUE_FULL", "STORE_FULL", "INVALID_REQUEST", "MODEL_NOT_FOUND", "MESSAGE_TOO_LARGE")


def terminal(history: History) -> Iterator[Violation]:
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
            if not history.may_be_told(call, failure):
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
    failed = [(call, failure) for call in calls for failure in call.of("failed")]
    if failed and all(history.may_be_told(*one) for one in failed):
        return None
    if state == "CANCELLED" and history.is_lost(entry["id"]):
        return None  # who had seen its end, or was told of the loss, reads it no more
    return f"it ended {state}: {entry['reason']}"


def once(history: History) -> Iterator[Violation]:
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


def idle(history: History) -> Iterator[Violation]:
    for event in history.others["idle"]:
        for what in ("pending", "queued", "running", "due", "depth", "without_expiry"):
            if what not in event:
                yield Violation("idle", what, "nobody could look at it afterwards")
            elif event[what]:
                yield Violation("idle", what, f"afterwards there was still {event[what]}")
    for name, entry in history.logs.items():
        if entry["terminals"] != 1 and name not in history.calls_of:
            yield Violation("idle", name, f"nobody knows of it, and it has {entry['terminals']} terminal records")


def alive(history: History) -> Iterator[Violation]:
    for event in history.others["exit"]:
        if not event["wanted"] and event["process"] not in history.drill.get("may_exit", []):
            yield Violation("alive", event["process"], f"it ended by itself with status {event['status']}")


def childless(history: History) -> Iterator[Violation]:
    for event in history.others["exit"]:
        if event.get("left"):
            yield Violation("childless", event["process"], f"it ended, and left behind {', '.join(event['left'])}")


def complete(history: History) -> Iterator[Violation]:
    if not history.others["end"]:
        yield Violation("complete", "the history", "it breaks off")
    elif not history.others["idle"]:
        yield Violation("complete", "the history", "it does not say whether all came to rest")

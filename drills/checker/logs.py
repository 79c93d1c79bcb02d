"""What Redis holds: faithful, fenced, and durable."""

from collections.abc import Iterator, Sequence
from typing import Any

from drills.checker.sorted_history import History, difference, logged_tokens
from drills.checker.violation import Violation


def faithful(history: History) -> Iterator[Violation]:
    for name, entry in history.logs.items():
        asked = history.begun_by(name)
        if asked is None:
            continue
        expected, logged = history.expectation(asked), logged_tokens(entry)
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
            yield Violation("faithful", name, f"its text is not what it should be: {difference(entry['text'], expected.text)}")


def fenced(history: History) -> Iterator[Violation]:
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


def durable(history: History) -> Iterator[Violation]:
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

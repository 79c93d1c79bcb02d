"""What readers got: contiguous, agreement, isolated, and faithful where Redis has no log any more."""

from collections.abc import Iterator

from drills.checker.sorted_history import Call, History, difference, digest, logged_tokens, received_tokens
from drills.checker.violation import Violation


def contiguous(history: History) -> Iterator[Violation]:
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


def agreement(history: History) -> Iterator[Violation]:
    for name, calls in history.calls_of.items():
        entry = history.logs.get(name)
        if entry is None:
            continue
        logged = logged_tokens(entry)
        for call in calls:
            if call.last_sequence > len(logged) and history.was_lost(call):
                # A new primary lacked the log's end, and nobody wanted it to grow that far again.
                yield from _unlike_what_it_should_be(history, call)
                continue
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
                if event["digest"] != digest(logged):
                    yield Violation("agreement", f"call {call.number}", "the digest does not fit the log")
                text = "".join(delta["text"] for delta in call.of("delta"))
                if call.asked.get("after", 0) == 0 and text != entry["text"]:
                    yield Violation(
                        "agreement", f"call {call.number}", f"its text is not the log's: {difference(text, entry['text'])}"
                    )


def faithful_if_forgotten(history: History) -> Iterator[Violation]:
    """What Redis has no log of any more is checked by what its readers got."""
    for name, calls in history.calls_of.items():
        if name not in history.logs:
            for call in calls:
                yield from _unlike_what_it_should_be(history, call)


def _unlike_what_it_should_be(history: History, call: Call) -> Iterator[Violation]:
    asked = next(filter(None, map(history.begun_by, call.ids)), None)
    if asked is None:
        return
    expected, got = history.expectation(asked).tokens, received_tokens(call)
    first = call.asked.get("after", 0)
    wanted = expected[first:] if call.of("finished") else expected[first : first + len(got)]
    if got != wanted:
        yield Violation("faithful", f"call {call.number}", f"it got {len(got)} tokens that are not what they should be")


def isolated(history: History) -> Iterator[Violation]:
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
        got = received_tokens(call)[:length]
        if asked is None or call.asked.get("after", 0) or len(got) < length:
            continue
        owner = begins.get(tuple(got))
        if owner is not None and owner != asked["prompt"]:
            yield Violation(
                "isolated", f"call {call.number}", f"it asked {asked['prompt']!r} and got what was made for {owner!r}"
            )

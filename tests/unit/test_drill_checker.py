"""The checker of drills is silent about sound histories, and tells of each thing that is wrong in spoiled ones."""

import hashlib
import json
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drills import checker
from drills.checker import Violation, check
from drills.history import Event
from drills.scenarios.failpoints import found_complete
from engine_service.engines.simulated.simulation import expected_tokens, text_of
from tokenrelay.v1 import generation_pb2 as g

SEEDS = st.integers(0, 2**32 - 1)
REFUSED = "QUEUE_FULL"  # may reach a user in these histories


class Made:
    """A generation that is made up: what it says, how its log came about, and what its users saw."""

    def __init__(self, name: str, chance: Random, attempts: int = 1) -> None:
        self.name = f"0-{name}"
        self.max_tokens = chance.randint(12, 40)
        self.tokens: list[int] = []
        while len(self.tokens) < 12:  # a few are over at once
            self.prompt = f"{name} {chance.getrandbits(64):x}"
            params = g.SamplingParams(max_tokens=self.max_tokens)
            self.tokens = list(expected_tokens(g.GenerationSpec(text=self.prompt, sampling_params=params)))
        self.ends = self._boundaries(chance)
        lost = sorted(chance.sample(self.ends[:-1], attempts - 1))
        self.log: Event = {
            "kind": "log",
            "id": self.name,
            "state": "FINISHED",
            "key_hash": hashlib.sha256(self.key.encode()).hexdigest(),
            "entries": [
                (end, 1 + sum(end > last for last in lost), self.tokens[begin:end])
                for begin, end in zip([0, *self.ends], self.ends, strict=False)
            ],
            "text": text_of(self.tokens),
            "terminals": 1,
            "attempts": [[1_000 * number, 1_000 * number + 500, end] for number, end in enumerate(lost, start=1)],
            "engine_called": True,
            "reason": None,
        }

    def _boundaries(self, chance: Random) -> list[int]:
        """Returns where the log's entries end."""
        inside = chance.sample(range(1, len(self.tokens)), min(8, len(self.tokens) - 1))
        return [*sorted(inside), len(self.tokens)]

    @property
    def key(self) -> str:
        return f"key of {self.name}"

    def end_at(self, sequence: int) -> None:
        """Has its log end early, since somebody has cancelled it."""
        self.log["entries"] = [entry for entry in self.log["entries"] if entry[0] <= sequence]
        self.log["text"] = text_of(self.tokens[:sequence])
        self.log["state"], self.log["reason"] = "CANCELLED", "the generation was cancelled"

    def call(self, number: int) -> Event:
        asked = {"prompt": self.prompt, "max_tokens": self.max_tokens, "key": self.key}
        return {"kind": "call", "call": number, "client": "stub", "method": "GenerateStream", **asked}

    def attach(self, number: int, after: int) -> Event:
        asked = {"id": self.name, "after": after}
        return {"kind": "call", "call": number, "client": "library", "method": "AttachGeneration", **asked}

    def accepted(self, number: int) -> Event:
        return {"kind": "accepted", "call": number, "id": self.name}

    def left(self, number: int, why: str) -> Event:
        return {"kind": "left", "call": number, "id": self.name, "why": why}

    def finished(self, number: int) -> Event:
        digest = hashlib.sha256(struct.pack(f"<{len(self.tokens) + 1}I", len(self.tokens), *self.tokens)).hexdigest()
        of_all = {"sequence": len(self.tokens), "digest": digest, "attempts": len(self.log["attempts"]) + 1, "exact": True}
        return {"kind": "finished", "call": number, "id": self.name, **of_all}

    def deltas(self, number: int, chance: Random, after: int = 0, until: int | None = None) -> Iterator[Event]:
        """Yields what a reader gets between two ends of entries, some entries in one, but never all."""
        wanted = [end for end in self.ends if after < end and (until is None or end <= until)]
        position = after
        for end in wanted:
            if end not in (wanted[0], wanted[-1]) and chance.random() < 0.4:
                continue
            text = text_of(self.tokens[:end]).removeprefix(text_of(self.tokens[:position]))
            tokens = self.tokens[position:end]
            yield {"kind": "delta", "call": number, "id": self.name, "sequence": end, "tokens": tokens, "text": text}
            position = end

    def somewhere(self, chance: Random) -> int:
        """Returns the end of an entry that is not the last."""
        return chance.choice(self.ends[:-1])


class Story:
    """A sound history: users that read, share, cancel and leave, takeovers, and a death of Redis.

    A spoiler changes its events; what it does is found by the names of the generations.
    """

    def __init__(self, seed: int) -> None:
        self.chance = chance = Random(seed)
        self.read = Made("read", chance, attempts=chance.randint(1, 3))
        self.shared = Made("shared", chance, attempts=chance.randint(2, 4))
        self.cancelled = Made("cancelled", chance)
        self.left = Made("left", chance, attempts=chance.randint(1, 2))
        self.refused = Made("refused", chance)
        lives = [list(life) for life in (*self._reads(), *self._shares(), self._cancels(), self._leaves(), self._is_refused())]
        seen = self._with_instants(self._mixed(lives))
        self.events: list[Event] = [
            {"kind": "drill", "at": 0.0, "name": "made up", "engine": "simulated", "allowed": [REFUSED], "may_exit": []},
            *self._with_death(seen),
            {"kind": "exit", "process": "worker-1", "pid": 7, "status": -9, "wanted": True},
            {"kind": "idle", "pending": 0, "queued": 0, "due": 0, "depth": 0, "running": 0, "without_expiry": []},
            *(made.log for made in (self.read, self.shared, self.cancelled, self.left)),
            {"kind": "end"},
        ]

    def _reads(self) -> Iterator[Sequence[Event]]:
        made = self.read
        yield [made.call(1), made.accepted(1), *made.deltas(1, self.chance), made.finished(1)]

    def _shares(self) -> Iterator[Sequence[Event]]:
        """One user submits, three read: from the beginning, from somewhere, and after the end."""
        made, middle, end = self.shared, self.shared.somewhere(self.chance), len(self.shared.tokens)
        yield [made.call(2), made.accepted(2), made.left(2, "left")]
        for number, after in ((3, 0), (4, middle), (5, end)):
            yield [made.attach(number, after), *made.deltas(number, self.chance, after), made.finished(number)]

    def _cancels(self) -> Sequence[Event]:
        made, until = self.cancelled, self.cancelled.somewhere(self.chance)
        made.end_at(self.chance.choice([end for end in made.ends if end >= until]))
        return [made.call(6), made.accepted(6), *made.deltas(6, self.chance, until=until), made.left(6, "cancelled")]

    def _leaves(self) -> Sequence[Event]:
        made, until = self.left, self.left.somewhere(self.chance)
        return [made.call(7), made.accepted(7), *made.deltas(7, self.chance, until=until), made.left(7, "left")]

    def _is_refused(self) -> Sequence[Event]:
        failed = {"kind": "failed", "call": 8, "id": None, "code": 8, "reason": REFUSED, "message": "it is full"}
        return [self.refused.call(8), failed]

    def _mixed(self, lives: list[list[Event]]) -> Iterator[Event]:
        """Yields the events of all, those of each in their order."""
        while lives := [life for life in lives if life]:
            yield self.chance.choice(lives).pop(0)

    def _with_instants(self, events: Iterator[Event]) -> list[Event]:
        return [{"at": 1000 + number / 100, **event} for number, event in enumerate(events)]

    def _with_death(self, events: list[Event]) -> Iterator[Event]:
        """Yields the events with a death of Redis among them, some time after somebody has read all of a generation."""
        first_end = next(n for n, event in enumerate(events) if event["kind"] == "finished" and event["call"] in (1, 3))
        place = self.chance.randint(first_end + 1, len(events))
        died_at = 1000 + place / 100 - 0.005
        yield from events[:place]
        yield {"kind": "survived", "at": died_at, "died_at": died_at, "logs": dict(self._on_disk(events[:place]))}
        yield {"kind": "serving", "at": died_at, "target": "redis"}
        yield from events[place:]

    def _on_disk(self, seen: list[Event]) -> Iterator[tuple[str, list[int | bool]]]:
        """Yields where each generation stands that somebody knows of: where it was seen, or further."""
        for made in (self.read, self.shared, self.cancelled, self.left):
            of_it = [event for event in seen if event.get("id") == made.name]
            position: int = max((event.get("sequence") or event.get("after", 0) for event in of_it), default=0)
            over = any(event["kind"] == "finished" for event in of_it)
            if of_it:
                further = self.chance.choice([end for end in (0, *made.ends) if end >= position])
                yield made.name, [max(further, position), over]

    def of(self, kind: str, made: Made | None = None, call: int | None = None) -> list[Event]:
        """Returns the events of a kind, all or those of a generation or call."""
        return [
            event
            for event in self.events
            if event["kind"] == kind and (made is None or event["id"] == made.name) and (call is None or event["call"] == call)
        ]

    def drop(self, event: Event) -> None:
        self.events = [other for other in self.events if other is not event]

    def put_after(self, event: Event, new: Event) -> None:
        place = next(number for number, other in enumerate(self.events) if other is event)
        self.events.insert(place + 1, {**new, "at": event["at"]})

    def violations(self) -> list[Violation]:
        """Returns what the checker says of it, as written and read."""
        return check(json.loads(json.dumps(self.events)))


Spoiler = Callable[[Story], object]
SPOILERS: list[tuple[str, Spoiler]] = []


def violates(invariant: str) -> Callable[[Spoiler], Spoiler]:
    def note(spoiler: Spoiler) -> Spoiler:
        SPOILERS.append((invariant, spoiler))
        return spoiler

    return note


@violates("contiguous")
def a_reader_misses_tokens(story: Story) -> None:
    story.drop(story.chance.choice(story.of("delta", call=1)))


@violates("contiguous")
def a_reader_gets_tokens_twice(story: Story) -> None:
    delta = story.chance.choice(story.of("delta", call=1))
    story.put_after(delta, delta)


@violates("contiguous")
def a_reader_gets_deltas_in_the_wrong_order(story: Story) -> None:
    first, *_, last = story.of("delta", call=3)
    story.drop(last)
    story.events.insert(story.events.index(first), last)


@violates("contiguous")
def a_reader_joins_at_the_wrong_place(story: Story) -> None:
    (asked,) = story.of("call", call=4)
    asked["after"] -= 1


@violates("contiguous")
def a_reader_is_told_of_an_end_too_early(story: Story) -> None:
    story.drop(story.of("delta", call=4)[-1])


@violates("agreement")
def a_reader_gets_swapped_tokens(story: Story) -> None:
    for delta in story.of("delta", call=1):
        delta["tokens"] = delta["tokens"][::-1]


@violates("agreement")
def a_reader_gets_another_token(story: Story) -> None:
    story.chance.choice(story.of("delta", call=4))["tokens"][-1] += 1


@violates("agreement")
def the_digest_is_wrong(story: Story) -> None:
    story.of("finished", call=1)[0]["digest"] = "00" * 32


@violates("agreement")
def a_reader_gets_another_text(story: Story) -> None:
    delta = next(delta for delta in story.of("delta", call=3) if delta["text"])
    delta["text"] = delta["text"][:-1] + "?"


@violates("agreement")
def the_log_ends_elsewhere_than_its_reader(story: Story) -> None:
    story.of("finished", call=5)[0]["sequence"] += 1


@violates("faithful")
def the_log_lacks_an_entry(story: Story) -> None:
    entries = story.read.log["entries"]
    entries.remove(story.chance.choice(entries))


@violates("faithful")
def the_log_has_an_entry_twice(story: Story) -> None:
    entries = story.left.log["entries"]
    place = story.chance.randrange(len(entries))
    entries.insert(place, entries[place])


@violates("faithful")
def the_log_has_tokens_swapped(story: Story) -> None:
    """Everybody agrees, and it is wrong all the same."""
    tokens = story.read.tokens
    place = next(place for place in range(1, len(tokens)) if tokens[place] != tokens[place - 1])
    tokens[place - 1 : place + 1] = [tokens[place], tokens[place - 1]]
    for event in (*story.of("delta", call=1), *[{"tokens": entry[2], "sequence": entry[0]} for entry in _entries(story)]):
        event["tokens"][:] = tokens[event["sequence"] - len(event["tokens"]) : event["sequence"]]


def _entries(story: Story) -> Sequence[tuple[int, int, list[int]]]:
    return story.read.log["entries"]


@violates("faithful")
def a_cancelled_log_has_a_wrong_token(story: Story) -> None:
    story.cancelled.log["entries"][0][2][0] += 1


@violates("faithful")
def the_text_is_wrong_everywhere(story: Story) -> None:
    story.left.log["text"] += "?"


@violates("faithful")
def a_reader_of_what_was_lost_on_purpose_got_wrong_tokens(story: Story) -> None:
    story.events.insert(1, {"kind": "fault", "fault": "FLUSHALL", "target": "redis", "at": 9e9})
    story.drop(story.read.log)
    story.of("delta", call=1)[-1]["tokens"][-1] += 1


@violates("isolated")
def a_reader_gets_what_was_made_for_another(story: Story) -> None:
    delta = story.of("delta", call=1)[0]
    story.events = [event for event in story.events if event["kind"] != "delta" or event["call"] != 1]
    story.put_after(story.of("accepted", call=1)[0], {**delta, "sequence": 12, "tokens": story.left.tokens[:12]})


@violates("terminal")
def a_log_has_two_terminal_records(story: Story) -> None:
    story.shared.log["terminals"] = 2


@violates("terminal")
def a_log_has_no_terminal_record(story: Story) -> None:
    story.left.log["terminals"] = 0


@violates("terminal")
def an_accepted_generation_is_gone(story: Story) -> None:
    story.drop(story.left.log)


@violates("terminal")
def a_user_is_never_told_of_the_end(story: Story) -> None:
    story.drop(story.of("finished", call=3)[0])


@violates("terminal")
def a_user_is_told_twice_of_the_end(story: Story) -> None:
    (finished,) = story.of("finished", call=5)
    story.put_after(finished, finished)


@violates("terminal")
def something_comes_after_the_end(story: Story) -> None:
    finished, delta = story.of("finished", call=1)[0], story.of("delta", call=1)[-1]
    story.put_after(finished, delta)


@violates("terminal")
def a_generation_expires_that_somebody_wanted(story: Story) -> None:
    story.left.log["state"] = "EXPIRED"


@violates("terminal")
def a_generation_is_cancelled_that_nobody_cancelled(story: Story) -> None:
    story.left.log["state"] = "CANCELLED"


@violates("terminal")
def a_user_gets_an_error_that_is_not_allowed(story: Story) -> None:
    story.of("failed", call=8)[0]["reason"] = "INTERNAL"


@violates("fenced")
def an_attempt_writes_after_its_takeover(story: Story) -> None:
    entries = story.shared.log["entries"]
    place = max(number for number, (_, epoch, _) in enumerate(entries) if epoch > 1)
    end, epoch, tokens = entries[place]
    entries[place] = (end, epoch - 1, tokens)


@violates("fenced")
def attempts_end_in_the_wrong_order(story: Story) -> None:
    end = len(story.shared.tokens)
    story.shared.log["attempts"] = [[1, 2, end + 1], [3, 4, end]]


@violates("durable")
def a_client_had_seen_more_than_was_on_disk(story: Story) -> None:
    (survived,) = story.of("survived")
    seen = [event for event in story.of("delta") if event["at"] < survived["died_at"]]
    delta = story.chance.choice(seen)
    survived["logs"][delta["id"]] = [delta["sequence"] - 1, False]


@violates("durable")
def a_client_had_seen_an_end_that_was_not_on_disk(story: Story) -> None:
    (survived,) = story.of("survived")
    finished = next(event for event in story.of("finished") if event["at"] < survived["died_at"])
    survived["logs"][finished["id"]][1] = False


@violates("durable")
def an_accepted_generation_was_not_on_disk(story: Story) -> None:
    (survived,) = story.of("survived")
    del survived["logs"][story.chance.choice(list(survived["logs"]))]


@violates("once")
def a_key_stands_for_two_generations(story: Story) -> None:
    story.events.insert(-1, {**story.read.log, "id": "0-another"})


@violates("once")
def a_call_is_told_of_two_generations(story: Story) -> None:
    story.of("finished", call=1)[0]["id"] = story.left.name


@violates("once")
def what_was_refused_has_begun(story: Story) -> None:
    story.events.insert(-1, story.refused.log)


@violates("idle")
def a_key_never_expires(story: Story) -> None:
    story.of("idle")[0]["without_expiry"] = ["tokenrelay:{0}:log:0-read"]


@violates("idle")
def an_entry_is_still_pending(story: Story) -> None:
    story.of("idle")[0][story.chance.choice(["pending", "queued", "due", "depth", "running"])] = 1


@violates("idle")
def what_nobody_knows_of_never_ended(story: Story) -> None:
    story.events.insert(-1, {**story.refused.log, "key_hash": None, "terminals": 0})


@violates("idle")
def nobody_could_look_whether_all_is_over(story: Story) -> None:
    story.of("idle")[0].pop("pending")


@violates("complete")
def nobody_looked_whether_all_is_over(story: Story) -> None:
    story.drop(story.of("idle")[0])


@violates("alive")
def a_process_ends_by_itself(story: Story) -> None:
    story.of("exit")[0].update(wanted=False, status=1)


@violates("childless")
def a_process_leaves_another_behind(story: Story) -> None:
    story.of("exit")[0].update(left=["envoy 8"])


@violates("complete")
def the_history_breaks_off(story: Story) -> None:
    story.events.pop()


@given(SEEDS)
@settings(deadline=None)
def test_it_is_silent_about_a_sound_history(seed: int) -> None:
    assert Story(seed).violations() == []


@pytest.mark.parametrize(("invariant", "spoil"), SPOILERS, ids=[spoiler.__name__ for _, spoiler in SPOILERS])
@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_it_tells_what_is_wrong(invariant: str, spoil: Spoiler, seed: int) -> None:
    story = Story(seed)
    spoil(story)
    found = story.violations()
    assert invariant in {violation.invariant for violation in found}, f"it says only {list(map(str, found))}"


def test_every_invariant_can_be_violated() -> None:
    told = set(re.findall(r"^\d+\. (\w+):", checker.__doc__ or "", re.MULTILINE))
    assert len(told) == 9
    assert told | {"alive", "childless", "complete"} == {invariant for invariant, _ in SPOILERS}


def test_a_real_engine_is_compared_with_its_undisturbed_run() -> None:
    story = Story(1)
    story.events[0]["engine"] = "vllm"
    for made in (story.read, story.shared, story.cancelled, story.left, story.refused):
        undisturbed = {
            "prompt": made.prompt,
            "max_tokens": made.max_tokens,
            "tokens": made.tokens,
            "text": text_of(made.tokens),
        }
        story.events.insert(1, {"kind": "expected", "at": 0.0, **undisturbed})
    assert story.violations() == []
    story.of("expected")[-1]["tokens"] = story.read.tokens[:-1]
    assert [violation.subject for violation in story.violations()] == [story.read.name]


def test_what_was_lost_on_purpose_may_be_gone() -> None:
    story = Story(2)
    story.events.insert(1, {"kind": "fault", "fault": "FLUSHALL", "target": "redis", "at": 9e9})
    story.drop(story.shared.log)
    assert story.violations() == []


def test_a_process_may_end_if_the_drill_says_so() -> None:
    story = Story(3)
    story.events[0]["may_exit"] = ["worker-1"]
    a_process_ends_by_itself(story)
    assert story.violations() == []


def test_a_takeover_after_the_last_token_is_found() -> None:
    story = Story(4)
    assert found_complete(story.events) == []
    story.read.log["attempts"].append([1, 2, len(story.read.tokens)])
    story.cancelled.log["attempts"].append([1, 2, story.cancelled.log["entries"][-1][0]])
    assert [log["id"] for log in found_complete(story.events)] == [story.read.name]

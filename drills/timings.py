"""How long readers had to wait for the next token, worked out from a history."""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from drills.history import Event


@dataclass(frozen=True)
class Durations:
    """Some durations in seconds."""

    seconds: tuple[float, ...]

    def percentile(self, share: float) -> float:
        """Returns the smallest one that is not exceeded by a share of all (nearest rank); NaN if there are none."""
        if not self.seconds:
            return math.nan
        return sorted(self.seconds)[max(0, math.ceil(share * len(self.seconds)) - 1)]

    def __str__(self) -> str:
        if not self.seconds:
            return "none"
        p50, p99, most = (self.percentile(share) for share in (0.5, 0.99, 1.0))
        return f"p50 {p50:.2f} s, p99 {p99:.2f} s, max {most:.2f} s, of {len(self.seconds)}"


@dataclass(frozen=True)
class Outage:
    """A time without a Redis that takes writes, on the machine's clock.

    Attributes:
        fault: what began it.
        until: when the next fault began.
    """

    fault: str
    died_at: float
    back_at: float
    until: float

    @property
    def seconds(self) -> float:
        return self.back_at - self.died_at


def outages(events: Sequence[Event]) -> list[Outage]:
    """Returns the outages of Redis in their order."""
    faults = [(event["at"], event["fault"]) for event in events if event["kind"] == "fault"]
    found = []
    for died_at, back_at in _outages(events):
        number = bisect_right(faults, (died_at, "~")) - 1
        until = faults[number + 1][0] if number + 1 < len(faults) else math.inf
        found.append(Outage(faults[number][1], died_at, back_at, until))
    return found


def standstills(events: Sequence[Event], outage: Outage, within: float) -> Durations:
    """Returns how long each stream that was open when Redis was back, or soon after, stood still from then on.

    Whatever its reader sees counts as progress, an error too.

    Args:
        within: seconds after the return in which a standstill may begin.
    """
    # Who asks for a whole answer sees nothing before its end.
    whole = {event["call"] for event in events if event["kind"] == "call" and event["method"] == "Generate"}
    progress: dict[int, list[float]] = defaultdict(list)
    for event in events:
        if "call" in event and event["call"] not in whole:
            progress[event["call"]].append(event["at"])
    found = []
    for times in progress.values():
        first = max(0, bisect_right(times, outage.back_at) - 1)
        last = bisect_right(times, min(outage.back_at + within, outage.until))
        waits = [after - max(before, outage.back_at) for before, after in pairwise(times[first : last + 1])]
        if waits and times[-1] > outage.back_at:
            found.append(max(waits))
    return Durations(tuple(found))


def takeovers(events: Sequence[Event], kind: str) -> Durations:
    """Returns how long after the kill -9 of a process each generation that it had got its next token to a reader.

    Only meaningful where nothing else is broken: every claim after the first is put down to the kill before it.
    """
    deaths = sorted(event["at"] for event in events if event["kind"] == "fault" and event["target"].startswith(kind))
    received = _deltas_by_generation(events)
    found = []
    for log in (event for event in events if event["kind"] == "log"):
        claims = [claimed / 1e6 for claimed, *_ in log["attempts"][1:]] + ([log["claimed_us"] / 1e6] if log["attempts"] else [])
        for claimed in claims:
            number = bisect_right(deaths, claimed)
            following = next((at for at in received[log["id"]] if at > claimed), None)
            if number and following is not None:
                found.append(following - deaths[number - 1])
    return Durations(tuple(found))


def recoveries(events: Sequence[Event]) -> Durations:
    """Returns how long after each return of Redis every reader that had been reading got its next token."""
    found = []
    for died_at, back_at in _outages(events):
        for times in _deltas_by_call(events).values():
            place = bisect_right(times, died_at)
            if 0 < place < len(times):
                found.append(times[place] - back_at)
    return Durations(tuple(found))


def takeovers_in_outages(events: Sequence[Event], margin: float) -> int:
    """Returns how many generations changed hands between a death of Redis and some seconds after its return."""
    outages = _outages(events)
    claims = [
        claimed / 1e6
        for log in events
        if log["kind"] == "log" and log["attempts"]
        for claimed in (*(attempt[0] for attempt in log["attempts"][1:]), log["claimed_us"])
    ]
    return sum(died_at <= claimed <= back_at + margin for claimed in claims for died_at, back_at in outages)


def _outages(events: Iterable[Event]) -> list[tuple[float, float]]:
    return [(event["died_at"], event["at"]) for event in events if event["kind"] == "serving"]


def _deltas_by_generation(events: Iterable[Event]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event["kind"] == "delta":
            times[event["id"]].append(event["at"])
    return times


def _deltas_by_call(events: Iterable[Event]) -> dict[int, list[float]]:
    times: dict[int, list[float]] = defaultdict(list)
    for event in events:
        if event["kind"] == "delta":
            times[event["call"]].append(event["at"])
    return times

"""Names the point from which on a sweep gains nothing more, and says why. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from bench.results.figures import Point

FLAT = 0.10  # growth of throughput below this is none
DOUBLED = 1.8  # times as many users is what has to bring nothing
CLIMBS = 1.25  # times the time to first token is waiting
BEHIND = 0.9  # share of the arrivals below which deliveries stay behind
FULL_CORE = 0.9  # cores from which on a process that has one is at its limit


@dataclass(frozen=True)
class Saturation:
    """What a sweep shows for one length of prompts and of answers.

    Attributes:
        at: the concurrency or rate; None: none was reached.
        why: a sentence.
    """

    input_tokens: int
    output_tokens: int
    at: float | None
    why: str


def find(points: Iterable[Point], slots: int = 0) -> list[Saturation]:
    """Returns what each sweep shows, one for each length of prompts and of answers.

    Args:
        points: of all sweeps.
        slots: how many generations the engines run at a time; 0: not known.
    """

    def lengths(point: Point) -> tuple[int, int]:
        return point.input_tokens, point.output_tokens

    result = []
    for (input_tokens, output_tokens), group in groupby(sorted(points, key=lengths), lengths):
        sweep = list(group)
        at, why = open_loop(sweep) if sweep[0].rate else closed_loop(sweep, slots)
        result.append(Saturation(input_tokens, output_tokens, at, why))
    return result


def closed_loop(points: Sequence[Point], slots: int = 0) -> tuple[int | None, str]:
    """Returns the least concurrency beyond which throughput stays flat while time to first token climbs, and why."""
    points = sorted((point for point in points if point.answered), key=lambda point: point.concurrency)
    flat = None
    for place, point in enumerate(points):
        more = [later for later in points[place + 1 :] if later.concurrency >= DOUBLED * point.concurrency]
        if not more or any(_growth(point, later) >= FLAT for later in points[place + 1 :]):
            continue
        if more[0].ttft_ms.p50 >= CLIMBS * point.ttft_ms.p50:
            return point.concurrency, _saturated(point, more[0], slots)
        flat = flat or (
            f"throughput is flat from concurrency {point.concurrency} on, but time to first token does not climb: "
            "not saturation, but some other limit, such as the engine's slots or the client"
        )
    return None, flat or _not_reached(points)


def open_loop(points: Sequence[Point]) -> tuple[float | None, str]:
    """Returns the lowest rate from which on fewer answers are delivered than requests arrive, and why."""
    points = sorted(points, key=lambda point: point.rate)
    behind: list[Point] = []
    for point in reversed(points):
        if point.delivered_per_s >= BEHIND * point.arrived_per_s:
            break
        behind.insert(0, point)
    if not behind:
        return None, f"not reached: up to {points[-1].rate:g} requests/s, what arrives is delivered"
    first = behind[0]
    return first.rate, (
        f"at {first.rate:g} requests/s, {first.arrived_per_s:.1f} arrive a second and {first.delivered_per_s:.1f} are "
        f"delivered{_because(first)}"
    )


def _growth(point: Point, later: Point) -> float:
    return later.tokens_per_s / point.tokens_per_s - 1 if point.tokens_per_s else 0.0


def _saturated(point: Point, more: Point, slots: int) -> str:
    full = f"; the engine runs {slots} at a time" if 0 < slots < more.concurrency else ""
    return (
        f"from concurrency {point.concurrency} to {more.concurrency}, throughput goes from {point.tokens_per_s:,.0f} to "
        f"{more.tokens_per_s:,.0f} tokens/s, while time to first token (p50) climbs from {point.ttft_ms.p50:.0f} to "
        f"{more.ttft_ms.p50:.0f} ms{full}{_because(more)}"
    )


def _not_reached(points: Sequence[Point]) -> str:
    if len(points) < 2:
        return "not to be told: it takes two points with answers"
    return f"not reached up to concurrency {points[-1].concurrency}"


def _because(point: Point) -> str:
    """Returns who had a core to itself there, as far as known."""
    if point.client_is_the_limit:
        return "; the client was at its limit there, so this may be the client's saturation: try more PROCESSES"
    full = [f"{group} {cores:.2f}" for group, cores in point.cores.items() if cores >= FULL_CORE]
    return f"; cores in use there: {', '.join(full)}" if full else ""

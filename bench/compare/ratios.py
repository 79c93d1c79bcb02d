"""What systems came to beside each other: medians over the rounds, and ratios to the baseline within each round. Pure."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from bench.results.figures import Point

ENGINE_GROUP = "vllm"
NO_SERVERS = (ENGINE_GROUP, "client", "traces")  # the last takes in what traced processes export


@dataclass(frozen=True)
class SystemRun:
    """One system in one round.

    Attributes:
        problem: why there are no points; "" if there are.
    """

    system: str
    round: int
    points: Sequence[Point] = ()
    problem: str = ""


@dataclass(frozen=True)
class Metric:
    """One figure of a point.

    Attributes:
        of: returns it; 0 if the system does not tell.
        digits: behind the decimal point, in tables.
    """

    name: str
    title: str
    of: Callable[[Point], float]
    digits: int = 1


@dataclass(frozen=True)
class Spread:
    """A figure of several rounds."""

    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Compared:
    """One figure of one system at one concurrency.

    Attributes:
        value: over the rounds.
        ratio: to the baseline's in the same round; None without such a round.
        difference: from it.
    """

    value: Spread
    ratio: Spread | None = None
    difference: Spread | None = None


@dataclass(frozen=True)
class Row:
    """One system at one concurrency.

    Attributes:
        rounds: in which it was measured there.
        refusals: of all rounds, by their reason.
        figures: by the metric's name; without those that the system does not tell.
        cpu_us_per_token: the median, by process group.
    """

    system: str
    concurrency: int
    rounds: int
    requests: int
    refusals: dict[str, int]
    figures: dict[str, Compared]
    cpu_us_per_token: dict[str, float] = field(default_factory=dict)


def beside_engine(point: Point) -> float:
    """Returns the CPU of all processes but vLLM's own, the client's with it, in microseconds a token."""
    return sum(used for group, used in point.cpu_us_per_token.items() if group != ENGINE_GROUP)


def of_servers(point: Point) -> float:
    """Returns the CPU of all that serves, durability included, without vLLM's own processes; microseconds a token."""
    return sum(used for group, used in point.cpu_us_per_token.items() if group not in NO_SERVERS)


SERVERS = Metric("server_cpu_us_per_token", "CPU of the servers, µs/token", of_servers)
METRICS = (
    Metric("tokens_per_s", "tokens/s", lambda point: point.tokens_per_s, 0),
    Metric("ttft_ms_p50", "first token p50, ms", lambda point: point.ttft_ms.p50),
    Metric("inter_token_ms_p99", "between tokens p99, ms", lambda point: point.inter_token_ms.p99),
    Metric("e2e_ms_p50", "end to end p50, ms", lambda point: point.e2e_ms.p50),
    SERVERS,
    Metric("cpu_us_per_token", "with the client's, µs/token", beside_engine),
    Metric("overhead_ms_p50", "overhead p50, ms", lambda point: point.overhead_ms.p50),
    Metric("overhead_ms_p99", "overhead p99, ms", lambda point: point.overhead_ms.p99),
)


def rows(runs: Sequence[SystemRun], baseline: str) -> list[Row]:
    """Returns a row for each concurrency and system, those of the same concurrency together."""
    concurrencies = sorted({point.concurrency for run in runs for point in run.points})
    systems = list(dict.fromkeys(run.system for run in sorted(runs, key=lambda run: run.round)))
    found = [(concurrency, system, _points(runs, system, concurrency)) for concurrency in concurrencies for system in systems]
    return [
        _row(system, concurrency, points, _points(runs, baseline, concurrency))
        for concurrency, system, points in found
        if points
    ]


def compare(metric: Metric, points: dict[int, Point], baseline: dict[int, Point]) -> Compared | None:
    """Compares a figure with the baseline's, round by round.

    Args:
        metric: which figure.
        points: a system's at one concurrency, by round.
        baseline: the baseline's there.

    Returns:
        None if the system does not tell.
    """
    values = {number: value for number, point in points.items() if (value := metric.of(point))}
    if not values:
        return None
    others = {number: value for number, point in baseline.items() if number in values and (value := metric.of(point))}
    return Compared(
        _spread(values.values()),
        _spread(values[number] / other for number, other in others.items()) if others else None,
        _spread(values[number] - other for number, other in others.items()) if others else None,
    )


def _points(runs: Sequence[SystemRun], system: str, concurrency: int) -> dict[int, Point]:
    """Returns a system's points at one concurrency by round."""
    mine = (run for run in runs if run.system == system)
    return {run.round: point for run in mine for point in run.points if point.concurrency == concurrency}


def _row(system: str, concurrency: int, points: dict[int, Point], baseline: dict[int, Point]) -> Row:
    compared = {metric.name: compare(metric, points, baseline) for metric in METRICS}
    refusals: dict[str, int] = {}
    for point in points.values():
        for reason, count in point.refusals.items():
            refusals[reason] = refusals.get(reason, 0) + count
    groups = dict.fromkeys(group for point in points.values() for group in point.cpu_us_per_token)
    return Row(
        system=system,
        concurrency=concurrency,
        rounds=len(points),
        requests=sum(point.requests for point in points.values()),
        refusals=refusals,
        figures={name: one for name, one in compared.items() if one is not None},
        cpu_us_per_token={
            group: median(point.cpu_us_per_token.get(group, 0.0) for point in points.values()) for group in groups
        },
    )


def _spread(values: Iterable[float]) -> Spread:
    ordered = sorted(values)
    return Spread(median(ordered), ordered[0], ordered[-1])

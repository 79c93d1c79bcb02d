"""The results: JSON for programs, Markdown for people."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.results import machine
from bench.results.figures import Point, Quantiles
from bench.results.saturation import Saturation

NONE = "not available"
Column = tuple[str, Callable[[Point], str]]


@dataclass(frozen=True)
class Report:
    """One measurement.

    Attributes:
        title: what generated, and with which model.
        command: makes the same again.
        at: when it began, in UTC.
        settings: all that it was told.
        machine: as machine.describe gives it.
        slots: how many generations the engines run at a time.
    """

    title: str
    engine: str
    command: str
    at: str
    settings: Mapping[str, Any]
    machine: dict[str, Any]
    points: Sequence[Point]
    slots: int
    saturation: Sequence[Saturation]

    def write(self, folder: Path) -> None:
        """Writes results.json and results.md."""
        (folder / "results.json").write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        (folder / "results.md").write_text(self.markdown(), encoding="utf-8")

    def markdown(self) -> str:
        """Returns the report as a page."""
        return "\n".join(self._lines())

    def summary(self) -> str:
        """Returns what is printed at the end: the main table, what saturates, and what to mind."""
        return "\n".join([*table(self.points, MAIN), "", *self._saturation(), *self._cautions()])

    def _lines(self) -> Iterator[str]:
        yield f"# Load on {self.title}"
        yield from ("", f"`{self.command}`, {self.at}.", "", f"{machine.sentence(self.machine)}.", "")
        yield from table(self.points, MAIN)
        yield from ("", *self._saturation(), *self._cautions(), "")
        yield from ("## Latency", "", "Milliseconds, p50 / p90 / p95 / p99.", "", *table(self.points, LATENCY), "")
        yield from (
            "## Hops",
            "",
            "Milliseconds, p50 / p99; last, what a first token and a whole answer take beyond the engine's own time.",
            "",
        )
        yield from table(self.points, [*_hop_columns(self.points), *OVERHEAD])
        yield from (
            "",
            "## Cost",
            "",
            "CPU in microseconds a token; memory is resident, in MiB, at its highest. Each process counts with what it starts.",
            "",
        )
        yield from table(self.points, _cost_columns(self.points))
        yield from ("", "## Caches", "", *table(self.points, CACHES), "")

    def _saturation(self) -> Iterator[str]:
        for one in self.saturation:
            at = "" if one.at is None else f" at {one.at:g}"
            yield f"- saturation{at} ({one.input_tokens} tokens in, {one.output_tokens} out): {one.why}"

    def _cautions(self) -> Iterator[str]:
        if self.engine == "simulated":
            yield "- the engine is simulated: it computes no model, and its speed is a setting"
        limited = [_load(point) for point in self.points if point.client_is_the_limit]
        if limited:
            yield f"- the client was the limit at {', '.join(limited)}: these say what it can do, not the servers"
        for point in self.points:
            for reason, count in point.refusals.items():
                yield f"- {count} of {point.requests} requests at {_load(point)} got no whole answer: {reason}"


def table(points: Sequence[Point], columns: Sequence[Column]) -> Iterator[str]:
    """Yields a Markdown table's lines, one a point, which stands in the first columns."""
    columns = [*LOAD, *columns]
    yield _row(name for name, _ in columns)
    yield _row("---:" for _ in columns)
    for point in points:
        yield _row(cell(point) for _, cell in columns)


def _row(cells: Iterator[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _load(point: Point) -> str:
    return f"{point.rate:g} requests/s" if point.rate else f"concurrency {point.concurrency}"


def _some(quantiles: Quantiles) -> str:
    return f"{quantiles.p50:.1f} / {quantiles.p99:.1f}"


def _all(quantiles: Quantiles) -> str:
    return " / ".join(f"{value:.1f}" for value in asdict(quantiles).values())


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f} %"


def _gpu(point: Point) -> str:
    return "no GPU in use" if point.gpu_used_mib is None else f"{point.gpu_used_mib:,.0f} of {point.gpu_total_mib:,.0f} MiB"


def _hop_columns(points: Sequence[Point]) -> list[Column]:
    names = dict.fromkeys(name for point in points for name in point.hops_ms)

    def column(hop: str) -> Column:
        return hop.replace("_", " "), lambda point: _some(point.hops_ms.get(hop, Quantiles()))

    return [column(name) for name in names]


def _cost_columns(points: Sequence[Point]) -> list[Column]:
    """Returns CPU and memory of each group; a deployment elsewhere shows the client's alone."""

    def processor(group: str) -> Column:
        return f"{group} CPU", lambda point: f"{point.cpu_us_per_token.get(group, 0.0):.1f}"

    def memory(group: str) -> Column:
        return f"{group} MiB", lambda point: f"{point.memory_mib.get(group, 0.0):,.0f}"

    groups = dict.fromkeys(group for point in points for group in point.cpu_us_per_token)
    held = dict.fromkeys(group for point in points for group in point.memory_mib)
    messages = ("tokens a message", lambda point: f"{point.tokens_per_message:.2f}")
    return [messages, *map(processor, groups), *map(memory, held), ("client cores", lambda point: f"{point.client_cores:.2f}")]


LOAD: Sequence[Column] = (
    ("tokens in", lambda point: str(point.input_tokens)),
    ("out", lambda point: str(point.output_tokens)),
    ("load", lambda point: f"{point.rate:g}/s" if point.rate else str(point.concurrency)),
)
MAIN: Sequence[Column] = (
    ("tokens/s", lambda point: f"{point.tokens_per_s:,.0f}"),
    ("requests/s", lambda point: f"{point.requests_per_s:,.2f}"),
    ("first token ms, p50 / p99", lambda point: _some(point.ttft_ms)),
    ("between tokens ms", lambda point: _some(point.inter_token_ms)),
    ("end to end ms", lambda point: _some(point.e2e_ms)),
    ("overhead ms", lambda point: _some(point.overhead_ms)),
    ("good requests/s", lambda point: f"{point.good_per_s:,.2f}"),
    ("refused", lambda point: str(sum(point.refusals.values()))),
)
LATENCY: Sequence[Column] = (
    ("first token", lambda point: _all(point.ttft_ms)),
    ("between tokens", lambda point: _all(point.inter_token_ms)),
    ("per token after the first", lambda point: _all(point.tpot_ms)),
    ("end to end", lambda point: _all(point.e2e_ms)),
    ("overhead", lambda point: _all(point.overhead_ms)),
)
OVERHEAD: Sequence[Column] = (
    ("first token beyond the engine", lambda point: _some(point.first_overhead_ms)),
    ("answer beyond the engine", lambda point: _some(point.overhead_ms)),
)
CACHES: Sequence[Column] = (
    ("prompt tokens cached, as answers say", lambda point: _percent(point.cached_share)),
    ("prefix cache hits, as the engine says", lambda point: _percent(point.prefix_hit_share)),
    ("KV cache used, highest", lambda point: _percent(point.kv_cache_share)),
    ("GPU memory", _gpu),
)

"""The comparison's results: JSON for programs, Markdown for people."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bench.compare.ratios import METRICS, SERVERS, Compared, Metric, Row, Spread, SystemRun
from bench.results import machine

TITLES = {
    "tokenrelay": "Tokenrelay",
    "tokenrelay-traced": "Tokenrelay, all traced",
    "vllm-http": "vLLM OpenAI server",
    "vllm-rust": "vLLM Rust frontend",
    "vllm-grpc": "vLLM gRPC server",
    "smg": "SMG before vLLM gRPC server",
    "in-process": "AsyncLLM in the client",
}
NONE = "–"
MAIN = tuple(metric for metric in METRICS if not metric.name.startswith("overhead"))
OVERHEAD = tuple(metric for metric in METRICS if metric.name.startswith("overhead"))
DIFFERING = "ttft_ms_p50"  # whose difference is told beside the ratio: for one stream it says more
READING = (
    "Medians over the rounds. In brackets: the ratio to {baseline} in the same round, as the median of the "
    "rounds' ratios, then their least and most; of the first token the difference too. CPU of the servers is that of all "
    "processes but vLLM's own, the client's and the spans' receiver. Requests without a whole answer are counted as refused "
    "and are in no other figure."
)
COST = (
    "CPU in microseconds a token by process group, medians over the rounds; each process counts with all that it has "
    "started. vLLM's own processes spin while they wait, so that theirs is no measure of work. AsyncLLM in the client "
    "counts as the client's."
)


@dataclass(frozen=True)
class ComparisonReport:
    """One comparison.

    Attributes:
        command: makes the same again.
        at: when it began, in UTC.
        settings: all that it was told, with what was chosen for what was unset.
        pinning: which processes ran where, in words.
        machine: as machine.describe gives it, with the peers' versions.
        baseline: the system that the ratios are to.
        missing: why a system was left out, by its name.
    """

    command: str
    at: str
    settings: Mapping[str, Any]
    pinning: str
    machine: dict[str, Any]
    runs: Sequence[SystemRun]
    rows: Sequence[Row]
    baseline: str
    missing: Mapping[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Writes comparison.json and comparison.md."""
        (folder / "comparison.json").write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        (folder / "comparison.md").write_text(self.markdown(), encoding="utf-8")

    def markdown(self) -> str:
        """Returns the report as a page."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield from (
            "# Comparison of servers",
            "",
            f"`{self.command}`, {self.at}.",
            "",
            f"{machine.sentence(self.machine)}.",
            "",
        )
        yield (
            f"Model: {self.settings['model']}. Engine arguments: `{self.settings['vllm_args']}`. Prompts of "
            f"{self.settings['input_tokens']} tokens, answers of {self.settings['output_tokens']}, greedy and forced. "
            f"Rounds: {self.settings['rounds']}. {self.pinning}"
        )
        yield from ("", READING.format(baseline=TITLES[self.baseline]), "", *self.cautions())
        for concurrency in dict.fromkeys(row.concurrency for row in self.rows):
            yield from ("", f"## {concurrency} stream{'' if concurrency == 1 else 's'}", "")
            yield from table([row for row in self.rows if row.concurrency == concurrency], MAIN)
        yield from self._overhead()
        yield from ("", "## Cost", "", COST, "", *_cost(self.rows), "")

    def cautions(self) -> Iterator[str]:
        """Yields what has to be minded, as lines of a list."""
        for name, why in self.missing.items():
            yield f"- {TITLES[name]} is left out: not installed: {why}"
        for run in self.runs:
            if run.problem:
                yield f"- {TITLES[run.system]} gave nothing in round {run.round}: {run.problem}"
        for row in self.rows:
            for reason, count in row.refusals.items():
                where = f"{TITLES[row.system]} at {row.concurrency}"
                yield f"- {where}: {count} of {row.requests} requests got no whole answer: {reason}"

    def _overhead(self) -> Iterator[str]:
        telling = [row for row in self.rows if any(metric.name in row.figures for metric in OVERHEAD)]
        if telling:
            yield from (
                "",
                "## Overhead",
                "",
                "What a whole answer takes beyond the engine's own time, which Tokenrelay tells.",
            )
            yield from ("", *table(telling, OVERHEAD, "streams"))


def table(rows: Sequence[Row], metrics: Sequence[Metric], first: str = "") -> Iterator[str]:
    """Yields a Markdown table's lines, one a row.

    Args:
        rows: what it shows.
        metrics: its columns.
        first: the heading of the concurrency's column; "": it has none.
    """
    heads = [*([first] if first else []), "system", *(metric.title for metric in metrics), "refused"]
    yield _line(heads)
    yield _line(["---:" if head != "system" else "---" for head in heads])
    for row in rows:
        cells = [cell(metric, row.figures.get(metric.name)) for metric in metrics]
        leading = [str(row.concurrency)] if first else []
        yield _line([*leading, TITLES[row.system], *cells, str(sum(row.refusals.values()))])


def cell(metric: Metric, compared: Compared | None) -> str:
    """Returns a figure with its ratio: `13,021 (0.95×, 0.93–0.97)`."""
    if compared is None:
        return NONE
    value = f"{compared.value.median:,.{metric.digits}f}"
    if compared.ratio is None or compared.ratio == Spread(1.0, 1.0, 1.0):
        return value
    said = f"{compared.ratio.median:.2f}×"
    if compared.ratio.least != compared.ratio.most:
        said += f", {compared.ratio.least:.2f}–{compared.ratio.most:.2f}"
    if metric.name == DIFFERING and compared.difference is not None:
        said += f"; {compared.difference.median:+.1f}"
    return f"{value} ({said})"


def _cost(rows: Sequence[Row]) -> Iterator[str]:
    groups = list(dict.fromkeys(group for row in rows for group in row.cpu_us_per_token))
    groups.sort(key=lambda group: group in ("client", "vllm"))  # these of all systems last
    yield _line(["streams", "system", "all servers", *groups])
    yield _line(["---:", "---", *("---:" for _ in ("all", *groups))])
    for row in rows:
        used = row.cpu_us_per_token
        cells = [f"{used[group]:.1f}" if group in used else NONE for group in groups]
        servers = cell(SERVERS, row.figures.get(SERVERS.name))
        yield _line([str(row.concurrency), TITLES[row.system], servers, *cells])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"

"""The report of drills, as Markdown for people and JSON for programs."""

import json
import os
import platform
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.local import redis_server
from tests.drill.checker import Violation
from tests.drill.history import Event
from tests.drill.scenario import Bar, Drill

BEGIN, END = "<!-- last report: begin -->", "<!-- last report: end -->"


@dataclass
class Result:
    """What one scenario came to.

    Attributes:
        story: the scenario's own sentence on what it does.
        problem: why it could not be brought to its end, if so.
    """

    name: str
    story: str
    seed: str
    seconds: float = 0.0
    calls: int = 0
    generations: int = 0
    tokens: int = 0
    taken_over: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    figures: dict[str, float | int | str] = field(default_factory=dict)
    problem: str | None = None

    @property
    def is_good(self) -> bool:
        return not self.violations and self.problem is None and all(bar.held for bar in self.bars)


def result_of(drill: Drill, story: str, seed: str, seconds: float, events: Iterable[Event]) -> Result:
    """Counts what a history holds."""
    result = Result(drill.name, story, seed, round(seconds, 1), bars=drill.bars, figures=drill.figures)
    faults: Counter[str] = Counter()
    generations = set()
    for event in events:
        kind = event["kind"]
        if kind == "call":
            result.calls += 1
        elif kind == "accepted":
            generations.add(event["id"])
        elif kind == "log":
            generations.add(event["id"])
            result.tokens += sum(len(tokens) for _, _, tokens in event["entries"])
            result.taken_over += len(event["attempts"])
        elif kind == "fault":
            faults[event["fault"]] += 1
    result.generations, result.faults = len(generations), dict(faults)
    return result


@dataclass
class Report:
    """All scenarios of one run."""

    command: str
    seed: int
    results: Sequence[Result]

    @property
    def is_good(self) -> bool:
        return all(result.is_good for result in self.results)

    def write(self, folder: Path) -> None:
        """Writes report.md and report.json."""
        (folder / "report.md").write_text(self.markdown(), encoding="utf-8")
        (folder / "report.json").write_text(json.dumps(self.as_json(), indent=1), encoding="utf-8")

    def publish(self, page: Path) -> None:
        """Replaces what a page says of the last report."""
        before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        page.write_text(f"{before}{BEGIN}\n\n{self.markdown(level=3)}\n{END}{after}", encoding="utf-8")

    def as_json(self) -> dict[str, Any]:
        return {
            "command": self.command,
            "seed": self.seed,
            "good": self.is_good,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": _machine(),
            "results": [asdict(result) for result in self.results],
        }

    def markdown(self, level: int = 1) -> str:
        """Returns the report as a page, or as a section of one."""
        head, results = "#" * level, self.results
        faults = sum((Counter(result.faults) for result in results), Counter[str]())
        violations = sum(len(result.violations) for result in results)
        lines = [
            f"{head} Drill report",
            "",
            f"`{self.command}`, seed {self.seed}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {_machine()}.",
            "",
            f"{sum(result.generations for result in results)} generations, {sum(result.tokens for result in results)} tokens, "
            f"{sum(faults.values())} faults, {sum(result.taken_over for result in results)} takeovers, "
            f"**{violations} violations**.",
            "",
            "| drill | what happens | generations | tokens | faults | takeovers | violations | seconds |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {one.name} | {one.story} | {one.generations} | {one.tokens} | {_counts(one.faults)} | {one.taken_over} "
            f"| {'did not end: ' + one.problem if one.problem else len(one.violations)} | {one.seconds:.0f} |"
            for one in results
        ]
        lines += ["", "| drill | bar | wanted | seen | held |", "| --- | --- | --- | --- | --- |"]
        lines += [
            f"| {one.name} | {bar.what} | {bar.wanted} | {bar.seen} | {'yes' if bar.held else '**no**'} |"
            for one in results
            for bar in one.bars
        ]
        figures = [(one.name, what, value) for one in results for what, value in one.figures.items()]
        if figures:
            lines += ["", "| drill | figure | seen |", "| --- | --- | --- |"]
            lines += [f"| {name} | {what} | {value} |" for name, what, value in figures]
        told = [(one.name, violation) for one in results for violation in one.violations]
        if told:
            lines += ["", f"{head}# Violations", ""] + [f"- {name}: {violation}" for name, violation in told]
        lines += ["", f"One drill again: `python -m tests.drill NAME --seed {self.seed}`, with `--long` if it was long.", ""]
        return "\n".join(lines)


def _counts(faults: dict[str, int]) -> str:
    return ", ".join(f"{count} {fault}" for fault, count in sorted(faults.items())) or "none"


def _machine() -> str:
    cores, memory = os.cpu_count(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    executable = next(iter(redis_server.executables().values()))
    redis = ".".join(map(str, redis_server.version(executable)))
    return f"{cores} cores, {memory:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}, Redis {redis}"

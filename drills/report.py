"""The report of drills, as Markdown for people and JSON for programs."""

import argparse
import json
import os
import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.local import redis_server
from deploy.local.settings import ROOT
from drills.checker import Violation
from drills.history import Event
from drills.scenario import Bar, Drill
from drills.scenarios import SCENARIOS

BEGIN, END = "<!-- last report: begin -->", "<!-- last report: end -->"
PROMISES = ROOT / "docs" / "promises.md"
PUBLISHED = ROOT / "docs" / "drills.json"  # the newest result of each drill that was published


@dataclass
class Result:
    """What one scenario came to.

    Attributes:
        story: the scenario's own sentence on what it does.
        problem: why it could not be brought to its end, if so.
        edge: what was asked to serve in the gateways; None if nothing was.
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
    command: str = ""
    at: str = ""
    edge: str | None = None

    @property
    def title(self) -> str:
        return self.name if self.edge is None else f"{self.name}, {self.edge}"

    @property
    def is_good(self) -> bool:
        return not self.violations and self.problem is None and all(bar.held for bar in self.bars)


def result_of(drill: Drill, story: str, seed: str, seconds: float, events: Iterable[Event]) -> Result:
    """Counts what a history holds."""
    result = Result(drill.name, story, seed, round(seconds, 1), bars=drill.bars, figures=drill.figures, edge=drill.edge)
    size, edge = " --long" if drill.long else "", f" --edge {drill.edge}" if drill.edge else ""
    result.command = f"python -m drills {drill.name} --seed {seed}{size}{edge}"
    result.at = datetime.now(UTC).isoformat(timespec="minutes")
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

    def as_json(self) -> dict[str, Any]:
        return {
            "command": self.command,
            "seed": self.seed,
            "good": self.is_good,
            "machine": _machine(),
            "results": [asdict(result) for result in self.results],
        }

    def markdown(self) -> str:
        """Returns the report as a page."""
        head = f"# Drill report\n\n`{self.command}`, seed {self.seed}, {_machine()}.\n\n"
        return head + tables(self.results)


def tables(results: Sequence[Result]) -> str:
    """Returns what some drills came to."""
    return "\n".join(_lines(results))


def _lines(results: Sequence[Result]) -> Iterator[str]:
    faults = sum((Counter(result.faults) for result in results), Counter[str]())
    yield (
        f"{sum(result.generations for result in results)} generations, {sum(result.tokens for result in results)} tokens, "
        f"{sum(faults.values())} faults, {sum(result.taken_over for result in results)} takeovers, "
        f"**{sum(len(result.violations) for result in results)} violations**."
    )
    yield ""
    yield "| drill | what happens | generations | tokens | faults | takeovers | violations | seconds |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for one in results:
        violations = f"did not end: {one.problem}" if one.problem else len(one.violations)
        counts = (
            f"{one.generations} | {one.tokens} | {_counts(one.faults)} | {one.taken_over} | {violations} | {one.seconds:.0f}"
        )
        yield f"| {one.title} | {one.story} | {counts} |"
    yield from ("", "| drill | bar | wanted | seen | held |", "| --- | --- | --- | --- | --- |")
    for one in results:
        for bar in one.bars:
            yield f"| {one.title} | {bar.what} | {bar.wanted} | {bar.seen} | {'yes' if bar.held else '**no**'} |"
    yield from ("", "| drill | figure | seen |", "| --- | --- | --- |")
    for one in results:
        for what, value in one.figures.items():
            yield f"| {one.title} | {what} | {value} |"
    yield from ("", "| drill | made by | at (UTC) |", "| --- | --- | --- |")
    for one in results:
        yield f"| {one.title} | `{one.command}` | {one.at.removesuffix('+00:00')} |"
    yield ""
    for one in results:
        for violation in one.violations:
            yield f"- violation in {one.name}: {violation}"


def _counts(faults: dict[str, int]) -> str:
    return ", ".join(f"{count} {fault}" for fault, count in sorted(faults.items())) or "none"


def _machine() -> str:
    cores, memory = os.cpu_count(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    executable = next(iter(redis_server.executables().values()))
    server = redis_server.version(executable)
    return f"{cores} cores, {memory:.0f} GiB, {platform.system()}, Python {platform.python_version()}, {server}"


def publish(folders: Sequence[Path]) -> None:
    """Puts the newest result of each drill into docs/promises.md, those of some folders being newer than what is there.

    A drill on an edge of its own is another one.
    """
    found: dict[tuple[str, str | None], dict[str, Any]] = {}
    reports = [json.loads((folder / "report.json").read_text(encoding="utf-8"))["results"] for folder in folders]
    for results in (json.loads(PUBLISHED.read_text(encoding="utf-8")) if PUBLISHED.exists() else [], *reports):
        found |= {(result["name"], result.get("edge")): result for result in results}
    newest = sorted(found.values(), key=lambda result: result.get("edge") or "")
    ordered = [result for name in SCENARIOS for result in newest if result["name"] == name]
    PUBLISHED.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    before, _, rest = PROMISES.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    text = f"On a machine of {_machine()}:\n\n{tables([_result(one) for one in ordered])}"
    PROMISES.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


def _result(data: dict[str, Any]) -> Result:
    violations = [Violation(**one) for one in data["violations"]]
    return Result(**{**data, "violations": violations, "bars": [Bar(**one) for one in data["bars"]]})


def main() -> None:
    """Publishes the reports in some folders."""
    parser = argparse.ArgumentParser(prog="python -m drills.report", description=publish.__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    publish(parser.parse_args().folders)


if __name__ == "__main__":
    main()

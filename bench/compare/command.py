"""`python -m bench compare`: measures servers of the same model in alternating rounds, and writes what each came to."""

import asyncio
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from rich.console import Console

from bench.compare import plot, ratios
from bench.compare.choice import STANDARD, Setup, baseline, missing
from bench.compare.client import POINTS, Task
from bench.compare.ratios import SystemRun
from bench.compare.report import MAIN, TITLES, ComparisonReport, table
from bench.compare.settings import ComparisonSettings
from bench.load.plan import STREAMS_A_POINT, OfferedLoad
from bench.load.workload import Workload
from bench.processes.child import INTERRUPTED, Child, DidNotStartError, cancel_on_signals
from bench.results import machine
from bench.results.figures import Point
from bench.settings.fields import results_folder
from bench.systems import vllm_rs_binary
from bench.systems.vllm_http import engine_environment

PEERS = ("smg", "smg-grpc-servicer", "smg-grpc-proto", "aiohttp")
LAST_WORDS = 300  # characters of a client's output that are told when it fails
console = Console(highlight=False, soft_wrap=True)


def compare(settings: ComparisonSettings) -> int:
    """Compares servers of the same model: tokens a second, latencies and CPU, as ratios to vLLM's OpenAI server."""
    began = datetime.now(UTC)
    folder = results_folder(settings.results, began)
    try:
        report = asyncio.run(Comparison(settings, folder).report(began))
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Interrupted; there are no results.")
        return INTERRUPTED
    except DidNotStartError as error:
        console.print(str(error), style="red", markup=False)
        return 1
    report.write(folder)
    drawn = plot.draw(report, folder)
    for concurrency in dict.fromkeys(row.concurrency for row in report.rows):
        rows = [row for row in report.rows if row.concurrency == concurrency]
        console.print("\n".join(["", f"Streams: {concurrency}", *table(rows, MAIN)]), markup=False)
    console.print("\n".join(["", *report.cautions()]), markup=False)
    names = ", ".join(["comparison.md", "comparison.json", *(path.name for path in drawn)])
    console.print(f"In {folder}: {names}", markup=False)
    return 0 if all(run.points for run in report.runs) else 1


@dataclass
class Comparison:
    """One comparison.

    Args:
        settings: what was asked for.
        folder: for the results and what the processes write.
    """

    settings: ComparisonSettings
    folder: Path

    async def report(self, began: datetime) -> ComparisonReport:
        """Measures everything."""
        cancel_on_signals()
        asked = self.settings.systems or STANDARD
        if "vllm-rust" in self.settings.systems:
            await asyncio.to_thread(vllm_rs_binary.fetch, console.print)
        lacking = {name: why for name in asked if (why := missing(name))}
        systems = [name for name in asked if name not in lacking]
        used, called = await asyncio.to_thread(_model, self.settings, self.folder)
        runs = [await self._run(number, name, used) for number, name in order(systems, self.settings.rounds)]
        return ComparisonReport(
            command=command(self.settings),
            at=began.isoformat(timespec="seconds"),
            settings={**self.settings.model_dump(mode="json"), "systems": systems, "model": called},
            pinning=pinning(*self.settings.cores),
            machine=_machine(),
            runs=runs,
            rows=ratios.rows(runs, baseline(systems)),
            baseline=baseline(systems),
            missing=lacking,
        )

    async def _run(self, number: int, name: str, used: str) -> SystemRun:
        console.print(f"round {number}/{self.settings.rounds}  {TITLES[name]}", markup=False)
        folder = self.folder / f"round-{number}"
        engine_core, core = self.settings.cores
        task = Task(
            system=name,
            setup=Setup(
                folder,
                used,
                self.settings.vllm_args,
                core,
                engine_core,
                connections=self.settings.connections,
                edge=self.settings.edge,
            ),
            loads=list(loads(self.settings, vocabulary_size(used), number)),
            results=folder / f"{name}.json",
        )
        command_line = [sys.executable, "-m", "bench.compare.client", task.model_dump_json()]
        client = SystemClient(f"client-{name}", command_line, folder, engine_environment(used, engine_core), core)
        try:
            await client.start()
            status = await client.ended()
        finally:
            await client.close()
        if status != 0:
            return SystemRun(name, number, problem=self._told(f"its client ended with status {status}: {client.last_words()}"))
        points = POINTS.validate_json(task.results.read_bytes())
        for point in points:
            self._told(said(point))
        return SystemRun(name, number, points)

    @staticmethod
    def _told(line: str) -> str:
        console.print(f"     {line}", markup=False)
        return line


class SystemClient(Child):
    """The process that starts and measures one system."""

    async def ended(self) -> int:
        """Waits for its end; returns its status."""
        assert self._process is not None, "it is waited for after start"
        return await self._process.wait()

    def last_words(self) -> str:
        """Returns the end of its output, and where the rest is."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return f"{lines[-1][-LAST_WORDS:] if lines else 'it said nothing'} ({self.log})"


def order(systems: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Yields which system is measured when: every other round backwards, so that none is always first."""
    for number in range(1, rounds + 1):
        for name in systems if number % 2 else reversed(systems):
            yield number, name


def loads(settings: ComparisonSettings, vocabulary: int, number: int) -> Iterator[OfferedLoad]:
    """Yields the loads of one round, the same for each system."""
    workload = Workload(settings.input_tokens, settings.output_tokens, vocabulary_size=vocabulary, seed=settings.seed)
    for place, concurrency in enumerate(settings.concurrency, number * len(settings.concurrency)):
        requests = settings.requests_a_user(concurrency)
        yield OfferedLoad(workload, concurrency=concurrency, rounds=requests, first_stream=place * STREAMS_A_POINT)


def said(point: Point) -> str:
    """Returns a line on a point."""
    refused = sum(point.refusals.values())
    return (
        f"{point.concurrency} streams: {point.tokens_per_s:,.0f} tokens/s, first token p50 {point.ttft_ms.p50:.1f} ms, "
        f"end to end p50 {point.e2e_ms.p50:,.1f} ms, {refused} of {point.requests} refused"
    )


def vocabulary_size(used: str) -> int:
    """Returns how many tokens a model knows; of one on the hub, what about all know."""
    file = Path(used) / "config.json"
    return int(json.loads(file.read_text(encoding="utf-8"))["vocab_size"]) if file.exists() else Workload().vocabulary_size


def pinning(engine_core: int | None, core: int | None) -> str:
    """Returns in words what is bound to which core."""
    if engine_core is None:
        return "No process is bound to a core."
    return f"vLLM's own processes are bound to core {engine_core}, all others and the client to core {core}."


def command(settings: ComparisonSettings) -> str:
    """Returns the command that compares the same again."""
    given = {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for name, value in settings.model_dump(exclude_defaults=True, exclude={"results"}).items()
    }
    return " ".join(["make bench-compare", *(f"{name.upper()}={shlex.quote(value)}" for name, value in given.items())])


def _model(settings: ComparisonSettings, folder: Path) -> tuple[str, str]:
    """Returns the model to be served, and what the report calls it."""
    if settings.model is not None:
        return settings.model, settings.model
    from bench.systems import random_model  # noqa: PLC0415  # torch takes seconds to import, and only this needs it

    made = str(random_model.make(folder / "random-llama"))
    return made, f"a Llama of {random_model.LAYERS} layers of width {random_model.WIDTH} with random weights"


def _machine() -> dict[str, object]:
    described = machine.describe()
    versions = described["versions"]
    assert isinstance(versions, dict), "describe made it"
    for name in PEERS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return described

"""Measures: `python -m bench run|memory|compare|profile`. A command is a module, and a line here with its settings."""

import typer

from bench import profiling
from bench.compare.settings import ComparisonSettings
from bench.memory.command import memory
from bench.memory.settings import MemorySettings
from bench.run import command
from bench.run.settings import BenchSettings
from bench.settings.options import of_settings


def compare(settings: ComparisonSettings) -> int:
    """Compares servers of the same model: tokens a second, latencies and CPU, as ratios to vLLM's OpenAI server."""
    from bench.compare.command import compare as run  # noqa: PLC0415  # imports torch, which takes seconds

    return run(settings)


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.command("run")(of_settings(BenchSettings, command.run))
app.command("memory")(of_settings(MemorySettings, memory))
app.command("profile")(of_settings(BenchSettings, profiling.profile))
app.command("compare")(of_settings(ComparisonSettings, compare))

if __name__ == "__main__":
    app(prog_name="python -m bench")

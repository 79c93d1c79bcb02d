"""Measures: `python -m bench run|compare|profile`. A command is a module of its own, and a line here with its settings."""

import typer

from bench import profile_command, run_command
from bench.comparison_settings import ComparisonSettings
from bench.options import of_settings
from bench.settings import BenchSettings


def compare(settings: ComparisonSettings) -> int:
    """Compares servers of the same model: tokens a second, latencies and CPU, as ratios to vLLM's OpenAI server."""
    from bench import compare_command  # noqa: PLC0415  # imports torch, which takes seconds

    return compare_command.compare(settings)


app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.command("run")(of_settings(BenchSettings, run_command.run))
app.command("profile")(of_settings(BenchSettings, profile_command.profile))
app.command("compare")(of_settings(ComparisonSettings, compare))

if __name__ == "__main__":
    app(prog_name="python -m bench")

"""The comparison's plot, as PNG and SVG: tokens a second of each system, and its ratio to the baseline."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.compare.ratios import Row
from bench.compare.report import TITLES, ComparisonReport
from bench.results.plots import COLOURS, DOTS, MARKERS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (11.0, 5.0)
THROUGHPUT = "tokens_per_s"
Line = list[tuple[int, float, float, float]]  # concurrency, median, least, most


def draw(report: ComparisonReport, folder: Path) -> list[Path]:
    """Draws comparison.png and comparison.svg, if there is something to draw; returns the files."""
    if not any(THROUGHPUT in row.figures for row in report.rows):
        return []
    # Imported here: matplotlib takes a second, and only a comparison's end needs it.
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure = plt.figure(figsize=SIZE, layout="constrained")
    throughput, ratio = figure.subplots(1, 2)
    for number, system in enumerate(dict.fromkeys(row.system for row in report.rows)):
        mine = [row for row in report.rows if row.system == system]
        _line(throughput, number, TITLES[system], tokens_per_second(mine))
        _line(ratio, number, TITLES[system], ratios(mine))
    _finish(throughput, report.rows, "Tokens a second", "tokens a second")
    _finish(ratio, report.rows, f"Ratio to {TITLES[report.baseline]}, same round", "times as many")
    _logarithmic(throughput)
    ratio.set_ylim(bottom=0)
    figure.legend(*throughput.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    paths = [folder / f"comparison.{ending}" for ending in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=DOTS)
    plt.close(figure)
    return paths


def tokens_per_second(rows: Sequence[Row]) -> Line:
    """Returns a system's throughput by concurrency."""
    found = [(row.concurrency, row.figures[THROUGHPUT].value) for row in rows if THROUGHPUT in row.figures]
    return [(concurrency, one.median, one.least, one.most) for concurrency, one in found]


def ratios(rows: Sequence[Row]) -> Line:
    """Returns a system's throughput beside the baseline's by concurrency; empty without a baseline."""
    found = [(row.concurrency, row.figures[THROUGHPUT].ratio) for row in rows if THROUGHPUT in row.figures]
    return [(concurrency, one.median, one.least, one.most) for concurrency, one in found if one is not None]


def _line(axes: "Axes", number: int, label: str, line: Line) -> None:
    """Draws the medians, and how far the rounds lie apart."""
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    middles = [middle for _, middle, _, _ in line]
    below = [middle - least for _, middle, least, _ in line]
    above = [most - middle for _, middle, _, most in line]
    at = [concurrency for concurrency, *_ in line]
    axes.errorbar(at, middles, yerr=(below, above), color=colour, marker=marker, capsize=3, label=label)


def _logarithmic(axes: "Axes") -> None:
    from matplotlib.ticker import LogLocator  # noqa: PLC0415  # as above

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.minorticks_off()


def _finish(axes: "Axes", rows: Sequence[Row], title: str, unit: str) -> None:
    ticks = sorted({row.concurrency for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_title(title)
    axes.set_xlabel("concurrency")
    axes.set_ylabel(unit)
    axes.grid(visible=True, alpha=0.3)

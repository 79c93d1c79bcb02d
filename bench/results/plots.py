"""The plots of a report, each as PNG and SVG. Pure but for the files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.results.figures import Point, Quantiles
from bench.results.report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by the colour-blind as well. Lines differ in their markers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#BBBBBB", "#000000", "#44AA99")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "//", "..", "xx", "\\\\", "++", "oo", "--", "**", "||")
MODEL_HOPS = ("prefill", "decode")
SIZE, DOTS = (8.0, 5.0), 144
Drawing = Callable[["Figure", Report], None]


def draw(report: Report, folder: Path) -> list[Path]:
    """Draws what there is to draw; returns the files."""
    # Imported here: matplotlib takes a second, and only a measurement's end needs it.
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    return [path for name, drawing in _drawings(report) for path in _save(report, folder, name, drawing)]


def _drawings(report: Report) -> Iterator[tuple[str, Drawing]]:
    if not any(point.answered for point in report.points):
        return
    yield "throughput", _throughput
    yield "latency", _latency
    if any(point.hops_ms for point in report.points):
        yield "hops", _hops
    if any(point.kv_cache_share is not None or point.gpu_used_mib is not None for point in report.points):
        yield "memory", _memory
    if len({point.input_tokens for point in report.points}) > 1:
        yield "prompt-length", _prompt_length


def _save(report: Report, folder: Path, name: str, drawing: Drawing) -> Iterator[Path]:
    import matplotlib.pyplot as plt  # noqa: PLC0415  # as above

    figure = plt.figure(figsize=SIZE, layout="constrained")
    drawing(figure, report)
    figure.suptitle(report.title, fontsize=10)
    for ending in ("png", "svg"):
        path = folder / f"{name}.{ending}"
        figure.savefig(path, dpi=DOTS)
        yield path
    plt.close(figure)


def _throughput(figure: "Figure", report: Report) -> None:
    axes = figure.subplots()
    for number, (label, sweep) in enumerate(_sweeps(report.points).items()):
        _line(axes, number, label, [(_offered(point), point.tokens_per_s) for point in sweep])
    for one in report.saturation:
        if one.at is not None:
            axes.axvline(one.at, color="#7F7F7F", linestyle=":", label=f"saturation at {one.at:g}")
    _finish(axes, report.points, "Throughput", "tokens a second")
    axes.set_ylim(bottom=0)


def _latency(figure: "Figure", report: Report) -> None:
    from matplotlib.ticker import LogLocator  # noqa: PLC0415  # as above

    axes = figure.subplots()
    number = 0
    for label, sweep in _sweeps(report.points).items():
        for what, of in (("first token", _ttft), ("end to end", _e2e)):
            for percent in ("p50", "p99"):
                values = [(_offered(point), getattr(of(point), percent)) for point in sweep]
                _line(axes, number, f"{what} {percent}{label and ', '}{label}", values, "-" if percent == "p50" else "--")
            number += 1
    _finish(axes, report.points, "Latency", "milliseconds")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()


def _hops(figure: "Figure", report: Report) -> None:
    """Draws all hops, and beside it what is left without the model's own, which are far longer than the others."""
    points = [point for point in report.points if point.hops_ms]
    whole, ours = figure.subplots(1, 2)
    names = list(dict.fromkeys(name for point in points for name in point.hops_ms))
    _stack(whole, points, names, names)
    _stack(ours, points, names, [name for name in names if name not in MODEL_HOPS])
    whole.set_title("Median of each hop")
    ours.set_title(f"without {' and '.join(MODEL_HOPS)}")
    handles, labels = whole.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)


def _stack(axes: "Axes", points: Sequence[Point], names: Sequence[str], shown: Sequence[str]) -> None:
    base = [0.0] * len(points)
    for number, name in enumerate(names):
        if name not in shown:
            continue
        heights = [point.hops_ms.get(name, Quantiles()).p50 for point in points]
        colour, hatch = COLOURS[number % len(COLOURS)], HATCHES[number % len(HATCHES)]
        bars = axes.bar(range(len(points)), heights, bottom=base, label=name.replace("_", " "), color=colour, hatch=hatch)
        for bar in bars:
            bar.set_edgecolor("white")
            bar.set_linewidth(0.5)
        base = [below + height for below, height in zip(base, heights, strict=True)]
    axes.set_xticks(range(len(points)), [_tick(points, point) for point in points], fontsize=8)
    axes.set_xlabel(_offered_label(points))
    axes.set_ylabel("milliseconds")


def _memory(figure: "Figure", report: Report) -> None:
    axes = figure.subplots()
    number = 0
    for label, sweep in _sweeps(report.points).items():
        for what, of in (("KV cache", _kv_percent), ("GPU memory", _gpu_percent)):
            values = [(_offered(point), value) for point in sweep if (value := of(point)) is not None]
            if values:
                _line(axes, number, f"{what}{label and ', '}{label}", values)
                number += 1
    _finish(axes, report.points, "Memory: KV cache at its highest, GPU at the end", "per cent used")
    axes.set_ylim(0, 105)


def _prompt_length(figure: "Figure", report: Report) -> None:
    axes = figure.subplots()
    groups = _by(report.points, lambda point: (point.output_tokens, _offered(point)))
    for number, ((output_tokens, offered), group) in enumerate(groups.items()):
        label = f"{_offered_label(report.points)} {offered:g}, {output_tokens} tokens out"
        for percent in ("p50", "p99"):
            values = [(float(point.input_tokens), getattr(point.ttft_ms, percent)) for point in group if point.answered]
            _line(axes, number, f"{percent}, {label}", values, "-" if percent == "p50" else "--")
    axes.set_title("Time to first token against prompt length")
    axes.set_xlabel("prompt tokens")
    axes.set_ylabel("milliseconds")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=7)


def _line(axes: "Axes", number: int, label: str, values: Sequence[tuple[float, float]], style: str = "-") -> None:
    abscissas, ordinates = [x for x, _ in values], [y for _, y in values]
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    axes.plot(abscissas, ordinates, style, color=colour, marker=marker, label=label or "measured")


def _finish(axes: "Axes", points: Sequence[Point], title: str, unit: str) -> None:
    """Gives a plot against what was offered its axes and names."""
    ticks = sorted({_offered(point) for point in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_title(title)
    axes.set_xlabel(_offered_label(points))
    axes.set_ylabel(unit)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=8)


def _sweeps(points: Sequence[Point]) -> dict[str, list[Point]]:
    """Returns the points with answers by their lengths; the label is empty if there is one sweep only."""
    answered = [point for point in points if point.answered]
    groups = _by(answered, lambda point: (point.input_tokens, point.output_tokens))
    if len(groups) == 1:
        return {"": answered}
    return {f"{lengths[0]} in, {lengths[1]} out": group for lengths, group in groups.items()}


def _by(points: Sequence[Point], key: Callable[[Point], tuple[float, float]]) -> Mapping[tuple[float, float], list[Point]]:
    groups: dict[tuple[float, float], list[Point]] = {}
    for point in points:
        groups.setdefault(key(point), []).append(point)
    return groups


def _offered(point: Point) -> float:
    return point.rate or float(point.concurrency)


def _offered_label(points: Sequence[Point]) -> str:
    return "arrivals a second" if points[0].rate else "concurrency"


def _tick(points: Sequence[Point], point: Point) -> str:
    several = len({(one.input_tokens, one.output_tokens) for one in points}) > 1
    return f"{_offered(point):g}" + (f"\n{point.input_tokens} in\n{point.output_tokens} out" if several else "")


def _ttft(point: Point) -> Quantiles:
    return point.ttft_ms


def _e2e(point: Point) -> Quantiles:
    return point.e2e_ms


def _kv_percent(point: Point) -> float | None:
    return None if point.kv_cache_share is None else 100 * point.kv_cache_share


def _gpu_percent(point: Point) -> float | None:
    if point.gpu_used_mib is None or not point.gpu_total_mib:
        return None
    return 100 * point.gpu_used_mib / point.gpu_total_mib

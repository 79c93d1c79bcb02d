"""How the command line shows hops, traces, models and generations.

The consoles are session.out and session.err, which print texts as they are.
"""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tokenrelay.client.command_line.traces import TraceSpan
from tokenrelay.timings import hop_name, milliseconds
from tokenrelay.v1 import generation_pb2, model_service_pb2

BAR_WIDTH = 40


def show_hops(console: Console, times: generation_pb2.Timings, client_ms: float | None = None) -> None:
    """Prints the hops with their shares of the total, and what the client measured beside it."""
    total_ms = milliseconds(times.total)
    table = Table(title="Where the time went", show_edge=False, pad_edge=False)
    table.add_column("hop")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    for hop in times.hops:
        hop_ms = milliseconds(hop.duration)
        table.add_row(hop_name(hop.kind).replace("_", " "), f"{hop_ms:.3f}", f"{hop_ms / total_ms:.1%}" if total_ms else "")
    table.add_section()
    added_ms = sum(milliseconds(hop.duration) for hop in times.hops)
    table.add_row("all hops", f"{added_ms:.3f}", "")
    table.add_row("total", f"{total_ms:.3f}", "")
    if client_ms is not None:
        table.add_row("measured by the client", f"{client_ms:.3f}", "")
    if times.HasField("time_to_first_token"):
        table.add_row("time to first token", f"{milliseconds(times.time_to_first_token):.3f}", "")
    console.print(table)


def show_trace(console: Console, spans: Sequence[TraceSpan]) -> None:
    """Prints a trace as a waterfall: one line a span, children below their parents, bars on one time line."""
    begin = min(span.start_ns for span in spans)
    length = max(1, max(span.end_ns for span in spans) - begin)
    rows = [("  " * depth + _short(span.name), span) for span, depth in _as_tree(spans)]
    name_width = max(len(name) for name, _ in rows)
    console.print(f"Trace {spans[0].trace_id}, {len(spans)} spans", style="italic")
    for name, span in rows:
        span_ms = (span.end_ns - span.start_ns) / 1e6
        bar = _bar((span.start_ns - begin) / length, (span.end_ns - begin) / length)
        line = Text(f"{name:<{name_width}}  {span.service:<8}{span_ms:>10.3f} ms  {bar}".rstrip())
        line.stylize("red" if span.failed else "")
        console.print(line)


def _short(name: str) -> str:
    """Returns a span's name without what all of ours have in common."""
    return name.replace("tokenrelay.v1.", "").replace("tokenrelay:", "")


def _as_tree(spans: Sequence[TraceSpan]) -> list[tuple[TraceSpan, int]]:
    """Returns the spans with their depths, parents before children, by time.

    Spans whose parents are unknown stand at the left, and so does one of a circle of parents, if a store has such a thing.
    """
    by_time = sorted(spans, key=lambda one: (one.start_ns, -one.end_ns))
    known = {span.span_id for span in spans}
    children: dict[str, list[TraceSpan]] = {}
    for span in by_time:
        children.setdefault(span.parent_id if span.parent_id in known else "", []).append(span)
    ordered: list[tuple[TraceSpan, int]] = []
    shown: set[int] = set()
    for root in [*children.get("", ()), *by_time]:
        waiting = [(root, 0)]  # a stack, since a trace may be deeper than Python's
        while waiting:
            span, depth = waiting.pop()
            if id(span) in shown:
                continue
            shown.add(id(span))
            ordered.append((span, depth))
            waiting.extend((child, depth + 1) for child in reversed(children.get(span.span_id, ())))
    return ordered


def _bar(start: float, end: float) -> str:
    left = min(BAR_WIDTH - 1, int(start * BAR_WIDTH))
    return " " * left + "█" * max(1, round((end - start) * BAR_WIDTH))


def show_models(console: Console, models: Sequence[model_service_pb2.Model]) -> None:
    """Prints what is served, with limits and load."""
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("model", "engine", "context", "workers", "running", "slots", "queued"):
        table.add_column(heading, justify="left" if heading in ("model", "engine") else "right")
    for model in models:
        engine = f"{model.engine_version}" if model.engine == "vllm" else "simulated: computes no model"
        numbers = (model.max_model_len, model.workers, model.running, model.slots, model.queued)
        table.add_row(model.name, engine, *(str(number) for number in numbers))
    console.print(table)


def show_generation(console: Console, generation: generation_pb2.Generation) -> None:
    """Prints a generation as far as it got."""
    state = generation_pb2.GenerationState.Name(generation.state).removeprefix("GENERATION_STATE_")
    console.print(f"{generation.generation_id}  {state}  {generation.model}  sequence {generation.sequence}")
    for choice in generation.choices:
        label = f"[{choice.index}] " if len(generation.choices) > 1 else ""
        print(label + choice.text)  # not by Rich, which expands tabs and drops control characters
    if generation.HasField("error"):
        console.print(f"error: {generation.error.message}", style="red")

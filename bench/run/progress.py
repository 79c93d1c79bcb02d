"""Shows how a measurement goes on: a bar on a terminal, else a line for each point."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.load.plan import OfferedLoad
from bench.results.figures import Point


class Shown:
    """The progress of all points."""

    def __init__(self, console: Console, points: int) -> None:
        self._console = console
        self._points = points
        self._number = 0

    def say(self, text: str) -> None:
        """Prints a line."""
        self._console.print(text, markup=False)

    @contextmanager
    def point(self, load: OfferedLoad) -> Iterator[Callable[[int], None]]:
        """Gives what to tell about requests that have ended."""
        self._number += 1
        title = f"{self._number}/{self._points}  {load.label()}"
        if not self._console.is_terminal:
            self.say(title)
            yield lambda _: None
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        # Twice a second: the machine is busy with what is measured.
        with Progress(*columns, console=self._console, refresh_per_second=2, transient=True) as bar:
            task = bar.add_task(title, total=load.requests)
            yield lambda ended: bar.advance(task, ended)
        self.say(title)

    def result(self, point: Point) -> None:
        """Prints what a point came to."""
        refused = sum(point.refusals.values())
        self.say(
            f"     {point.tokens_per_s:,.0f} tokens/s, first token p50 {point.ttft_ms.p50:.1f} ms, "
            f"p99 {point.ttft_ms.p99:.1f} ms, {refused} of {point.requests} refused"
        )
        if point.client_is_the_limit:
            self.say(f"     a client process took {point.client_cores:.2f} cores: it is the limit here; try more PROCESSES")

"""What a drill's scenario is given, and what it leaves: a history, figures, and bars that it held or missed."""

import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from drills import history
from drills.history import Event, History


@dataclass(frozen=True)
class Bar:
    """A figure that was promised: what it is, what was seen, what was wanted."""

    what: str
    seen: str
    wanted: str
    held: bool


@dataclass
class Drill:
    """One run of one scenario.

    Attributes:
        folder: for logs, data and the history; its own.
        random: the only source of chance, from the seed.
        long: whether there is time for the full size that docs/promises.md reports, or for a short one.
        show: tells a person how far it is.
        edge: what serves in the gateways; None: what they choose.
    """

    name: str
    folder: Path
    history: History
    random: Random
    long: bool
    show: Callable[[str], None]
    edge: str | None = None
    bars: list[Bar] = field(default_factory=list)
    figures: dict[str, float | int | str] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """Shows progress."""
        self.show(f"{self.name} {time.monotonic() - self.started:6.1f} s  {text}")

    def events(self) -> list[Event]:
        """Returns what has been written down so far."""
        self.history.flush()
        return list(history.read(self.history.file))

    def judge(self, what: str, *, seen: str, wanted: str, held: bool) -> None:
        """Notes a bar."""
        self.bars.append(Bar(what, seen, wanted, held))


Scenario = Callable[[Drill], Coroutine[Any, Any, None]]

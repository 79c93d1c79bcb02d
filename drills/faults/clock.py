"""A wall clock that jumps while a process runs, as when somebody sets it; the monotonic clock stays true."""

from pathlib import Path

from drills.faults import preload

SOURCE = Path(__file__).with_name("clock.c")
NANOSECONDS = 1_000_000_000


class JumpingClock:
    """The wall clock of the processes that were started with its environment.

    What they read is moved: time.time, gettimeofday, Redis' TIME, the instants in Redis' expiries. What they wait for is
    not: sleeps, timeouts and deadlines on the monotonic clock last as long as asked. A wait until an instant of the wall
    clock, begun before a jump, ends when it would have ended without; the true one would follow the jump.

    Only what asks through the C library sees it. Files keep the machine's times.

    Args:
        folder: where the library and its control file are written; of this clock alone.

    Raises:
        NoCompilerError: the library cannot be compiled here.
    """

    def __init__(self, folder: Path) -> None:
        self._library = preload.compiled(SOURCE, folder)
        self._control = preload.Control(folder / "clock.control", 1)

    def environment(self) -> dict[str, str]:
        """Returns the variables to start a process with; see `preload.combined` for more than one library."""
        return {"LD_PRELOAD": str(self._library), "CLOCK_CONTROL": str(self._control.file)}

    @property
    def offset(self) -> float:
        """How far the clock is off, in seconds."""
        return self._control.read(0) / NANOSECONDS

    def jump(self, seconds: float) -> None:
        """Moves the clock by so much, on top of where it is; back if negative. Not to before the autumn of 2001."""
        self._control.write(0, self._control.read(0) + round(seconds * NANOSECONDS))

    def heal(self) -> None:
        """Sets the clock right, which is a jump too."""
        self._control.write(0, 0)

    def close(self) -> None:
        """Heals it, and lets go of the control file."""
        self.heal()
        self._control.close()

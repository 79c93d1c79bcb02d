"""A disk that takes its time: a process' fsync and fdatasync last longer, by what is set while it runs."""

from pathlib import Path

from drills.faults import preload

SOURCE = Path(__file__).with_name("slow_disk.c")
DELAY_MILLISECONDS, DELAYED_CALLS, NUMBERS = range(3)  # as in the C file


class SlowDisk:
    """The disk of the processes that were started with its environment.

    The delay comes before the real call, so what a process has written is not on disk until it is over. A call under way
    sees a change within some milliseconds: healing ends even a wait of an hour.

    Args:
        folder: where the library and its control file are written; of this disk alone.

    Raises:
        NoCompilerError: the library cannot be compiled here.
    """

    def __init__(self, folder: Path) -> None:
        self._library = preload.compiled(SOURCE, folder)
        self._control = preload.Control(folder / "slow_disk.control", NUMBERS)

    def environment(self) -> dict[str, str]:
        """Returns the variables to start a process with; see `preload.combined` for more than one library."""
        return {"LD_PRELOAD": str(self._library), "SLOW_DISK_CONTROL": str(self._control.file)}

    @property
    def delayed_calls(self) -> int:
        """How many calls have been delayed; one that still waits counts already."""
        return self._control.read(DELAYED_CALLS)

    def set_delay(self, milliseconds: int) -> None:
        """Sets by how much each call lasts longer; 0: not at all."""
        self._control.write(DELAY_MILLISECONDS, milliseconds)

    def heal(self) -> None:
        """Makes the disk as fast as it is; calls that wait go on."""
        self.set_delay(0)

    def close(self) -> None:
        """Heals it, and lets go of the control file."""
        self.heal()
        self._control.close()

"""Which processes belong to a member of the stack: those below it, and those that it leaves behind when it ends."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from drills.waiting import eventually

MARK = "DRILL_MEMBER"  # a variable that every process below a member inherits
ENVOY = "envoy"
PATIENCE = 10.0  # seconds for what Linux has killed to be gone


def tree(pid: int) -> Iterator[int]:
    """Yields a process and all below it."""
    yield pid
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text(encoding="utf-8").split():
                yield from tree(int(child))


def envoy_below(pid: int) -> int | None:
    """Returns the Envoy that a gateway has started; None if there is none."""
    return next((one for one in tree(pid) if one != pid and _name(one) == ENVOY), None)


def has_loaded(pid: int, library: str) -> bool:
    return library in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")


async def left_behind(mark: str) -> list[str]:
    """Returns which processes with a mark stay, by name and id, though what started them has ended."""
    found: list[str] = []

    def none() -> bool:
        found[:] = _marked(mark)
        return not found

    with suppress(AssertionError):  # the checker tells what stays
        await eventually(none, "what it had started is gone", PATIENCE)
    return found


def _marked(mark: str) -> Iterator[str]:
    wanted = f"{MARK}={mark}".encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            # What has ended, but was not waited for, has no environment any more; others' is not ours to read.
            with suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    yield f"{_name(int(folder.name))} {folder.name}"


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    return "?"

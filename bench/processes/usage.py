"""What processes cost, by psutil, and on which core they run."""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress

import psutil


def tree(pid: int) -> list[psutil.Process]:
    """Returns a process and all that it has started, as far as they are there."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def cpu_seconds(pids: Iterable[int]) -> float:
    """Returns the CPU time that processes have taken so far, to a clock tick each."""
    total = 0.0
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            times = psutil.Process(pid).cpu_times()
            total += times.user + times.system
    return total


def cpu_seconds_of(groups: Mapping[str, Iterable[int]]) -> dict[str, float]:
    """Returns the CPU seconds of each group of processes."""
    return {name: cpu_seconds(pids) for name, pids in groups.items()}


def memory_bytes(pids: Iterable[int]) -> int:
    """Returns the resident memory of processes."""
    total = 0
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            total += psutil.Process(pid).memory_info().rss
    return total


def pin(pids: Iterable[int], core: int) -> None:
    """Binds processes to one core, with all the threads they have."""
    for pid in pids:
        with suppress(FileNotFoundError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(int(thread), {core})

"""Keeps vLLM's scheduler process on chosen cores.

EngineCore spins while it waits for its workers. On a machine of few cores it then starves whatever else is there: measured
on two cores, one stream in three stood still for 200 to 500 ms. On the core that vLLM's CPU worker is bound to, it only
takes turns with that one.
"""

import multiprocessing
import os

from tokenrelay.start_up import SettingError


def check(cores: str) -> None:
    """Judges core numbers before anything is loaded.

    Raises:
        SettingError: this machine does not have them.
    """
    count = os.cpu_count() or 1
    for part in cores.split(","):
        first, _, last = part.partition("-")
        if not int(first) <= int(last or first) < count:
            raise SettingError("TOKENRELAY_ENGINE_CORE_CPUS", f"{part} is not among this machine's cores, 0 to {count - 1}")


def parse(cores: str) -> set[int]:
    """Reads core numbers and ranges: "0", "0-3,6"."""
    found: set[int] = set()
    for part in cores.split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def keep_children_on(cores: str) -> None:
    """Binds the processes that this one has started, with all their threads.

    Raises:
        SettingError: the machine does not have these cores.
    """
    for process in multiprocessing.active_children():
        for thread in os.listdir(f"/proc/{process.pid}/task"):
            try:
                os.sched_setaffinity(int(thread), parse(cores))
            except ProcessLookupError:
                continue  # the thread has ended meanwhile
            except OSError as error:
                raise SettingError("TOKENRELAY_ENGINE_CORE_CPUS", f"{cores}: {error.strerror}") from error

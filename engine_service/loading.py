"""Loads in a thread that lives as long as the process, and that the process does not wait for when it ends.

vLLM starts its processes from the thread that makes it, and Linux ends them with that thread, see parent_death. An executor's
thread would live as long too, but the interpreter joins it at exit, and so waits until the model is loaded.
"""

import asyncio
import atexit
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


async def load(work: Callable[[], T]) -> T:
    """Returns what the work returns. Cancelled, it has the process' exit end the work and the processes it has started."""
    loaded: Future[T] = Future()
    threading.Thread(target=_work, args=(work, loaded), name="loader", daemon=True).start()
    try:
        return await asyncio.wrap_future(loaded)
    except asyncio.CancelledError:
        atexit.register(partial(_exit_at_once, loaded))
        raise


def _work(work: Callable[[], T], loaded: "Future[T]") -> None:
    loaded.set_running_or_notify_cancel()
    try:
        loaded.set_result(work())
    except BaseException as error:  # whatever it is, it is told to whoever waits
        loaded.set_exception(error)
    threading.Event().wait()


def _exit_at_once(loaded: "Future[T]") -> None:
    """Runs before the exit handlers of vLLM and multiprocessing, which wait for processes that load, and so hear nothing.

    The interpreter must not be taken down under the work either: C++ aborts when its thread is ended in the middle.
    """
    if loaded.done():
        return
    for pid in [found for process in multiprocessing.active_children() for found in _with_descendants(process.pid or 0)]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # as after any signal that asks to stop


def _with_descendants(pid: int) -> Iterator[int]:
    yield pid
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from _with_descendants(int(child))

"""Loading in a thread that outlives its work and holds nobody up."""

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from engine_service import loading
from tests.support.local_stack import ROOT

UNFINISHED = """
    import asyncio, multiprocessing, signal, threading
    from engine_service import loading

    spawn = multiprocessing.get_context("spawn")

    def grandchild(begun):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        begun.set()
        threading.Event().wait()

    def child(begun):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        process = spawn.Process(target=grandchild, args=(begun,))
        process.start()
        process.join()

    def work():
        begun = spawn.Event()
        process = spawn.Process(target=child, args=(begun,))
        process.start()
        begun.wait()
        started.set()
        process.join()

    async def main():
        loaded = asyncio.create_task(loading.load(work))
        await asyncio.to_thread(started.wait)
        loaded.cancel()

    if __name__ == "__main__":
        started = threading.Event()
        asyncio.run(main())
        print("ended")
"""


async def test_what_was_loaded_is_returned_and_its_thread_stays() -> None:
    thread = await loading.load(threading.current_thread)
    assert thread.daemon
    assert thread.is_alive(), "Linux would end the processes that it has started"


async def test_an_error_reaches_who_waits() -> None:
    def fails() -> None:
        raise FileNotFoundError("no such model")

    with pytest.raises(FileNotFoundError, match="no such model"):
        await loading.load(fails)


async def test_a_cancelled_load_is_left_alone() -> None:
    entered, released, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        entered.set()
        released.wait()
        done.set()

    loaded = asyncio.create_task(loading.load(work))
    await asyncio.to_thread(entered.wait)
    loaded.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loaded
    released.set()
    await asyncio.to_thread(done.wait)


def test_a_process_ends_while_it_loads_and_takes_its_children_along(tmp_path: Path) -> None:
    script = tmp_path / "unfinished.py"
    script.write_text(textwrap.dedent(UNFINISHED))
    # This returns when the output is closed, which all of its processes have open.
    ended = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, "ended\n"), ended.stderr

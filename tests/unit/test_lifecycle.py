"""What signals do to a process, and with which status it ends."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, sys
from tokenrelay import lifecycle

class Application:
    async def start_up(self): pass
    async def run(self):
        print("runs", flush=True)
        await asyncio.Event().wait()
    async def drain(self):
        print("draining", flush=True)
        if sys.argv[1] == "long":
            await asyncio.Event().wait()
    async def stop(self): print("closed", flush=True)

class Hopeless(Application):
    async def start_up(self): raise lifecycle.StartUpError("the port is in use")

sys.exit(lifecycle.serve(Hopeless() if sys.argv[1] == "hopeless" else Application()))
"""


def start(how: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", PROGRAM, how]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdout is not None
    for said in process.stdout:
        if said == line + "\n":
            return
    raise AssertionError(f"the process ended without saying {line!r}")


@pytest.mark.parametrize("how", ["short", "long"])
def test_a_signal_drains_and_a_second_one_forces(how: str) -> None:
    with start(how) as process:
        wait_for(process, "runs")
        process.send_signal(signal.SIGTERM)
        wait_for(process, "draining")
        if how == "long":
            process.send_signal(signal.SIGTERM)
        wait_for(process, "closed")
        process.communicate()
    assert process.returncode == 0


def test_what_cannot_start_ends_with_status_1_and_says_why() -> None:
    with start("hopeless") as process:
        _, told = process.communicate()
    assert process.returncode == 1
    assert told.startswith("the port is in use\n")

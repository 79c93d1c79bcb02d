"""What signals do to a process, and with which status it ends."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, sys
from tokenrelay import lifecycle, start_up

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
    async def start_up(self): raise start_up.StartUpError("the engine does not load")

class Wrong(Application):
    async def start_up(self): raise start_up.SettingError("TOKENRELAY_PORT", "the port is in use")

KINDS = {"hopeless": Hopeless, "wrong": Wrong}
sys.exit(lifecycle.serve(KINDS.get(sys.argv[1], Application)()))
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


@pytest.mark.parametrize(
    ("how", "status", "line"),
    [("hopeless", 1, "the engine does not load"), ("wrong", 2, "TOKENRELAY_PORT: the port is in use")],
)
def test_what_cannot_start_says_why_in_a_line(how: str, status: int, line: str) -> None:
    with start(how) as process:
        _, told = process.communicate()
    assert process.returncode == status
    assert told.startswith(line + "\n")
    assert "Traceback" not in told

"""A drill finds what a process leaves behind when it ends, and the Envoy below a gateway."""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

import pytest

from drills import family
from tests.support.waiting import eventually

MARK = "the mark of this test"
GRANDCHILD = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'input()'], stdout=sys.stderr).pid)"


async def test_what_outlives_its_parent_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "PATIENCE", 0.1)
    held, holder = os.pipe()  # the grandchild ends when nobody holds the other end
    environment = {**os.environ, family.MARK: MARK}
    command = (sys.executable, "-c", GRANDCHILD)
    parent = await asyncio.create_subprocess_exec(*command, env=environment, stdin=held, stdout=PIPE, stderr=DEVNULL)
    os.close(held)
    told, _ = await parent.communicate()
    (found,) = await family.left_behind(MARK)
    assert found.split()[-1] == told.decode().strip()
    os.close(holder)
    monkeypatch.undo()
    assert await family.left_behind(MARK) == []


async def test_envoy_is_found_below_the_process_that_started_it(tmp_path: Path) -> None:
    envoy = tmp_path / "envoy"
    envoy.symlink_to("/bin/cat")
    assert family.envoy_below(os.getpid()) is None
    child = await asyncio.create_subprocess_exec(str(envoy), stdin=PIPE)
    # It has its name a moment after it has been started.
    await eventually(lambda: family.envoy_below(os.getpid()) == child.pid, "it is found")
    await child.communicate(b"")
    assert family.envoy_below(os.getpid()) is None

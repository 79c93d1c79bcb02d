"""Ties vLLM's own processes to the engine service: they die with it, however it dies, and do not go on holding the device.

vLLM calls `arm` in each of its processes as a general plugin. It asks Linux to kill the process when its parent ends;
EngineCore's parent is the engine service, and a Worker's parent is EngineCore.
"""

import os
import signal

from tokenrelay.parent_death import die_with

PARENT_VARIABLE = "TOKENRELAY_ENGINE_SERVICE_PID"  # set by the engine service for its children


def announce_parent() -> None:
    """Marks this process as the one that vLLM's processes belong to."""
    os.environ[PARENT_VARIABLE] = str(os.getpid())  # noqa: TID251  # the only way into a process that vLLM starts


def arm() -> None:
    """Does nothing outside of processes that an engine service's vLLM has started."""
    service = os.environ.get(PARENT_VARIABLE)  # noqa: TID251
    if service is None or int(service) == os.getpid():
        return
    parent = os.getppid()
    die_with(parent)
    if parent == 1 and int(service) != 1:  # adopted; in a container the engine service may itself be process 1
        os.kill(os.getpid(), signal.SIGKILL)

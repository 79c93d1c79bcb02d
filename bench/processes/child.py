"""Processes that a benchmark starts and ends: their output goes to a file, and what they started ends with them."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from bench.processes.usage import tree
from deploy.local.settings import ROOT

START_SECONDS = 300.0
STOP_SECONDS = 20.0
LOOK_INTERVAL = 0.2

INTERRUPTED = 130  # the exit status of a command that a signal has cancelled


class DidNotStartError(Exception):
    """A process ended, or did not serve in time. Its text says where its output is."""


class Child:
    """One started process.

    Args:
        core: the core to run on, with everything that it starts; None: any.
    """

    def __init__(
        self, name: str, command: Sequence[str], folder: Path, environment: Mapping[str, str], core: int | None = None
    ) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = [*(["taskset", "-c", str(core)] if core is not None else []), *command]
        self._environment = dict(environment)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "it is asked for after start"
        return self._process.pid

    async def start(self) -> None:
        """Starts it."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TOKENRELAY_", "OTEL_"))}
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, env={**inherited, **self._environment}, cwd=ROOT, stdout=log, stderr=log
            )

    async def wait_until(self, serves: Callable[[], Awaitable[bool]]) -> None:
        """Returns once it serves.

        Raises:
            DidNotStartError: it ended, or took too long.
        """
        assert self._process is not None, "it is waited for after start"
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await serves():
                    if self._process.returncode is not None:
                        raise DidNotStartError(f"{self.name} ended with status {self._process.returncode}; see {self.log}")
                    await asyncio.sleep(LOOK_INTERVAL)
        except TimeoutError:
            raise DidNotStartError(f"{self.name} did not serve within {START_SECONDS:g} s; see {self.log}") from None

    async def close(self) -> None:
        """Ends it and all that it has started, even what it starts while it is told to end: loading vLLM it cannot hear."""
        if self._process is None:
            return
        started: dict[int, psutil.Process] = {}
        with suppress(ProcessLookupError):
            self._process.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                while self._process.returncode is None:
                    started |= {process.pid: process for process in tree(self.pid)}
                    await asyncio.sleep(LOOK_INTERVAL)
        for process in {**started, **{process.pid: process for process in tree(self.pid)}}.values():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        await self._process.wait()


def cancel_on_signals() -> None:
    """Cancels the current task on SIGTERM (time limits) and SIGHUP (closed terminal), like Ctrl-C."""
    task = asyncio.current_task()
    assert task is not None, "it is called in one"
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has SIGHUP ignored
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)

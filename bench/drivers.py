"""The client processes of a measurement, from the side that starts them and looks on."""

import asyncio
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import plan
from bench.messages import LENGTH, Ended, Outcome, Part, Ready, pack
from bench.plan import Load
from deploy.local.settings import ROOT

LEAD_SECONDS = 0.2  # from the word to begin to the beginning, for the word to reach all


class DriverEndedError(Exception):
    """A client process ended by itself. Its text says where its output is."""


class Driver:
    """One client process."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "bench.driver"),
                cwd=ROOT,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )

    async def send(self, message: object) -> None:
        """Gives it a message.

        Raises:
            DriverEndedError: it is gone.
        """
        assert self._process is not None, "it is started"
        assert self._process.stdin is not None, "it has a pipe"
        try:
            self._process.stdin.write(pack(message))
            await self._process.stdin.drain()
        except ConnectionError:
            raise DriverEndedError(f"a client process ended; see {self._log}") from None

    async def receive(self) -> Any:
        """Returns its next message.

        Raises:
            DriverEndedError: it is gone.
        """
        assert self._process is not None, "it is started"
        assert self._process.stdout is not None, "it has a pipe"
        try:
            head = await self._process.stdout.readexactly(LENGTH.size)
            return pickle.loads(await self._process.stdout.readexactly(*LENGTH.unpack(head)))
        except asyncio.IncompleteReadError:
            raise DriverEndedError(f"a client process ended; see {self._log}") from None

    async def close(self) -> None:
        """Ends it, in the middle of a point too."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class Drivers:
    """All client processes of a measurement.

    Args:
        count: how many.
        folder: for what they print.
        targets: whom they ask.
    """

    def __init__(self, count: int, folder: Path, targets: Sequence[str]) -> None:
        self._drivers = [Driver(folder / f"client-{number + 1}.log") for number in range(count)]
        self._targets = tuple(targets)

    async def start(self) -> None:
        """Starts them."""
        for driver in self._drivers:
            await driver.start()

    async def warm_up(self, load: Load, amount: int) -> None:
        """Has them offer what comes before a point; returns when all that has ended.

        Raises:
            DriverEndedError: one is gone.
        """
        before = plan.warm_up(load, amount) if amount else None
        befores = plan.shares(before, len(self._drivers)) if before else [None] * len(self._drivers)
        for driver, part, first in zip(self._drivers, plan.shares(load, len(self._drivers)), befores, strict=True):
            await driver.send(Part(self._targets, part, first))
        for driver in self._drivers:
            assert isinstance(await driver.receive(), Ready)

    async def measure(self, ended: Callable[[int], None]) -> list[Outcome]:
        """Has them offer the point that they have warmed up for, all from one instant on; returns what each came to.

        Args:
            ended: called with a number of requests that have ended.

        Raises:
            DriverEndedError: one is gone.
        """
        begin = time.monotonic() + LEAD_SECONDS
        for driver in self._drivers:
            await driver.send(begin)
        return await asyncio.gather(*(self._outcome(driver, ended) for driver in self._drivers))

    @staticmethod
    async def _outcome(driver: Driver, ended: Callable[[int], None]) -> Outcome:
        while True:
            message = await driver.receive()
            if isinstance(message, Outcome):
                return message
            assert isinstance(message, Ended)
            ended(message.requests)

    async def close(self) -> None:
        """Ends them."""
        for driver in self._drivers:
            await driver.close()

"""The client processes of a measurement, from the side that starts them and looks on."""

import asyncio
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.clients.messages import LENGTH, Ended, Outcome, Part, Ready, pack
from bench.load import plan
from bench.load.plan import OfferedLoad
from deploy.local.settings import ROOT

LEAD_SECONDS = 0.2  # from the word to begin to the beginning, for the word to reach all


class ClientEndedError(Exception):
    """A client process ended by itself. Its text says where its output is."""


class ClientProcess:
    """One client process."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "bench.clients.process",
                cwd=ROOT,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )

    async def send(self, message: object) -> None:
        """Gives it a message.

        Raises:
            ClientEndedError: it is gone.
        """
        assert self._process is not None, "it is started"
        assert self._process.stdin is not None, "it has a pipe"
        try:
            self._process.stdin.write(pack(message))
            await self._process.stdin.drain()
        except ConnectionError:
            raise ClientEndedError(f"a client process ended; see {self._log}") from None

    async def receive(self) -> Any:
        """Returns its next message.

        Raises:
            ClientEndedError: it is gone.
        """
        assert self._process is not None, "it is started"
        assert self._process.stdout is not None, "it has a pipe"
        try:
            head = await self._process.stdout.readexactly(LENGTH.size)
            return pickle.loads(await self._process.stdout.readexactly(*LENGTH.unpack(head)))
        except asyncio.IncompleteReadError:
            raise ClientEndedError(f"a client process ended; see {self._log}") from None

    async def close(self) -> None:
        """Ends it, in the middle of a point too."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


class ClientPool:
    """All client processes of a measurement.

    Args:
        count: how many.
        folder: for what they print.
        targets: whom they ask.
        connections: of each process to each target.
    """

    def __init__(self, count: int, folder: Path, targets: Sequence[str], connections: int = 1) -> None:
        self._clients = [ClientProcess(folder / f"client-{number + 1}.log") for number in range(count)]
        self._targets = tuple(targets)
        self._connections = connections

    async def start(self) -> None:
        """Starts them."""
        for client in self._clients:
            await client.start()

    async def warm_up(self, load: OfferedLoad, amount: int) -> None:
        """Has them offer what comes before a point; returns when all that has ended.

        Raises:
            ClientEndedError: one is gone.
        """
        before = plan.warm_up(load, amount) if amount else None
        befores = plan.shares(before, len(self._clients)) if before else [None] * len(self._clients)
        for client, part, first in zip(self._clients, plan.shares(load, len(self._clients)), befores, strict=True):
            await client.send(Part(self._targets, self._connections, part, first))
        for client in self._clients:
            assert isinstance(await client.receive(), Ready)

    async def measure(self, ended: Callable[[int], None]) -> list[Outcome]:
        """Has them offer the point that they have warmed up for, all from one instant on; returns what each came to.

        Args:
            ended: called with a number of requests that have ended.

        Raises:
            ClientEndedError: one is gone.
        """
        begin = time.monotonic() + LEAD_SECONDS
        for client in self._clients:
            await client.send(begin)
        return await asyncio.gather(*(self._outcome(client, ended) for client in self._clients))

    @staticmethod
    async def _outcome(client: ClientProcess, ended: Callable[[int], None]) -> Outcome:
        while True:
            message = await client.receive()
            if isinstance(message, Outcome):
                return message
            assert isinstance(message, Ended)
            ended(message.requests)

    async def close(self) -> None:
        """Ends them."""
        for client in self._clients:
            await client.close()

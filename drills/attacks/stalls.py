"""Attacks that take their time: connections that say nothing, and calls that go on a byte at a time."""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

from drills.attacks.good import SERVICE
from drills.attacks.tally import Tally
from drills.raw_http2.connection import RawConnection
from drills.raw_http2.frames import PREFACE, Frame, frame, message, request_fields

HELD = 200  # connections, and calls, that are left hanging at a time
PATIENCE = 40.0  # seconds for an answer, or for the server to close
BYTE_SECONDS = 0.1  # between two bytes of a slow sender
METHODS = (SERVICE + b"Generate", SERVICE + b"GenerateStream", b"/grpc.health.v1.Health/Check")
GREETINGS = (b"", PREFACE[:5], PREFACE, PREFACE + frame(Frame.SETTINGS, 0, 0))


class Stalls:
    """Leaves connections hanging in the background; each method returns how many requests that was."""

    def __init__(self, target: str, chance: Random, tally: Tally) -> None:
        self._target = target
        self._chance = chance
        self._tally = tally
        self._held = asyncio.Semaphore(HELD)
        self._hanging: set[asyncio.Task[None]] = set()

    async def join(self) -> None:
        """Returns when nothing hangs any more."""
        await asyncio.gather(*self._hanging)

    async def half_open(self, _: RawConnection) -> int:
        """Connects and says nothing, or hello and nothing more, until the server has had enough."""
        return await self._hang(self._say_nothing)

    async def slow(self, _: RawConnection) -> int:
        """Begins a call and goes on a byte at a time, or not at all."""
        return await self._hang(self._crawl)

    async def _hang(self, hanging: Callable[[], Awaitable[None]]) -> int:
        if self._held.locked():
            return 0

        async def hang() -> None:
            async with self._held:
                await hanging()

        self._hanging.add(asyncio.create_task(hang()))
        # It takes its place before the next one looks whether there is any.
        await asyncio.sleep(0)
        return 1

    async def _say_nothing(self) -> None:
        connection = RawConnection(self._target, polite=False)
        try:
            await connection.open(preface=False)
            connection.send(self._chance.choice(GREETINGS))
            if await connection.wait_until_closed(PATIENCE):
                self._tally.came("half open", "closed by the server")
            else:
                self._tally.is_bad("half open", "still open", f"still there after {PATIENCE:.0f} s")
        finally:
            await connection.close()

    async def _crawl(self) -> None:
        async with RawConnection(self._target) as connection:
            stream, answer = connection.begin(request_fields(self._chance.choice(METHODS)))
            body = message(b"\0" * self._chance.choice([20, 1000])) if self._chance.random() < 0.7 else b""
            for byte in body:
                if answer.done():
                    break
                connection.send(frame(Frame.DATA, 0, stream, bytes((byte,))))
                await asyncio.sleep(BYTE_SECONDS)
            try:
                self._tally.answered("slow senders", await asyncio.wait_for(answer, PATIENCE))
            except TimeoutError:
                self._tally.is_bad("slow senders", "no answer", f"no answer within {PATIENCE:.0f} s")

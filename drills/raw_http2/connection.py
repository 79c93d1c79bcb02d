"""A raw HTTP/2 connection: its frames are made by hand, so that wrong, slow and half ones can be sent too.

The library is hpack, by the makers of h2, because answers are compressed; h2 itself would refuse to send what is wrong.
"""

import asyncio
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

import hpack

from drills.raw_http2.frames import (
    ACK,
    CANCEL,
    END_STREAM,
    FRAME_BYTES,
    INITIAL_WINDOW_SIZE,
    MOST,
    PREFACE,
    WINDOW,
    Answer,
    Fields,
    Frame,
    frame,
    header_block,
    header_frames,
)
from drills.raw_http2.windows import Windows


class Streams:
    """The streams of a connection that are open, and what has come on each so far."""

    def __init__(self) -> None:
        self._answers: dict[int, asyncio.Future[Answer]] = {}
        self._partial: dict[int, Answer] = {}
        self._decoder = hpack.Decoder(max_header_list_size=2**20)

    def expect(self, stream: int) -> asyncio.Future[Answer]:
        """Returns what will hold a stream's answer."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answers[stream], self._partial[stream] = answer, Answer()
        return answer

    def is_accepted(self, stream: int) -> bool:
        """Tells whether a call that goes on has got its first headers."""
        return stream in self._partial and bool(self._partial[stream].fields)

    def fields(self, stream: int) -> dict[str, str]:
        """Returns the header fields that have come on a stream that goes on."""
        return self._partial[stream].fields

    def forget(self, stream: int) -> None:
        self._answers.pop(stream, None)
        self._partial.pop(stream, None)

    def take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Takes what the server sent on a stream."""
        if kind == Frame.HEADERS:
            self._take_fields(stream, payload)
        elif kind == Frame.DATA and stream in self._partial:
            self._partial[stream].body += payload
        elif kind == Frame.RST_STREAM and stream in self._partial:
            self._partial[stream].reset = int.from_bytes(payload, "big")
        is_end = kind == Frame.RST_STREAM or (kind in (Frame.HEADERS, Frame.DATA) and flags & END_STREAM)
        if is_end and stream in self._answers:
            answer = self._answers.pop(stream)
            if not answer.done():
                answer.set_result(self._partial.pop(stream))

    def _take_fields(self, stream: int, payload: bytes) -> None:
        # Every block must be decoded, since the table is the connection's.
        for name, value in self._decoder.decode(payload, raw=True):
            if stream in self._partial:
                self._partial[stream].fields[name.decode("latin-1")] = value.decode("latin-1")

    def cut(self) -> None:
        """Ends every answer that is not whole: the connection has ended."""
        for stream, answer in self._answers.items():
            if not answer.done():
                self._partial[stream].cut = True
                answer.set_result(self._partial[stream])
        self._answers.clear()
        self._partial.clear()


class RawConnection:
    """One connection. What comes is always read; pings and settings are answered only if it is polite.

    Attributes:
        streams: its open streams.
        sent_away: set as soon as the server has said GOAWAY.

    Args:
        window: what the server may send on a stream before it is granted more, which never happens.
    """

    def __init__(self, target: str, *, polite: bool = True, window: int = 2**24) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._polite = polite
        self._window = window
        self.streams = Streams()
        self.sent_away = asyncio.Event()
        self._next_stream = 1
        self._windows = Windows()
        self._granted = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.is_open = False

    async def __aenter__(self) -> "RawConnection":
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self, *, preface: bool = True) -> None:
        """Connects and, if it is to, says hello as HTTP/2 does."""
        reader, self._writer = await asyncio.open_connection(self._host, self._port)
        self._writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.is_open = True
        self._reading = asyncio.create_task(self._read(reader))
        if preface:
            settings = struct.pack(">HI", INITIAL_WINDOW_SIZE, self._window)
            grant = frame(Frame.WINDOW_UPDATE, 0, 0, (MOST - WINDOW).to_bytes(4, "big"))
            self.send(PREFACE + frame(Frame.SETTINGS, 0, 0, settings) + grant)

    def send(self, data: bytes) -> None:
        """Sends bytes as they are; what a broken connection does not take is lost."""
        if self.is_open and self._writer is not None:
            with suppress(OSError, RuntimeError):
                self._writer.write(data)

    async def flush(self) -> None:
        """Waits until the machine has taken what was sent."""
        if self._writer is not None:
            with suppress(OSError):
                await self._writer.drain()

    @property
    def newest(self) -> int:
        """The stream that was begun last."""
        return self._next_stream - 2

    async def wait_until_closed(self, seconds: float) -> bool:
        """Tells whether the server closes the connection within some time."""
        assert self._reading is not None
        done, _ = await asyncio.wait({self._reading}, timeout=seconds)
        return bool(done)

    def begin(self, fields: Fields, body: bytes | None = None) -> tuple[int, asyncio.Future[Answer]]:
        """Sends headers, and a small body with the end of the stream if there is one."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        answer = self.streams.expect(stream)
        self.send(header_frames(stream, header_block(fields)))
        if body is not None:
            self._windows.sent(stream, len(body))
            self.send(frame(Frame.DATA, END_STREAM, stream, body))
        if not self.is_open:
            self.streams.cut()
        return stream, answer

    async def call(self, fields: Sequence[tuple[bytes, bytes]], body: bytes) -> Answer:
        """Makes a call and returns its answer; a body of any size is sent as fast as the server grants it."""
        stream, answer = self.begin(fields)
        try:
            place = 0
            while True:
                part = body[place : place + min(FRAME_BYTES, self._windows.room(stream))]
                place += len(part)
                self._windows.sent(stream, len(part))
                if part or place == len(body):  # empty frames are an attack of their own
                    self.send(frame(Frame.DATA, END_STREAM if place == len(body) else 0, stream, part))
                if place == len(body):
                    return await answer
                if not self._windows.room(stream):
                    self._granted.clear()
                    granted = asyncio.ensure_future(self._granted.wait())
                    waited: set[asyncio.Future[Any]] = {granted, answer}
                    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                    granted.cancel()
                if answer.done():
                    return await answer
        finally:
            self._windows.forget(stream)

    def reset(self, stream: int, code: int = CANCEL) -> None:
        """Breaks a stream off."""
        self.streams.forget(stream)
        self.send(frame(Frame.RST_STREAM, 0, stream, code.to_bytes(4, "big")))

    async def close(self) -> None:
        """Hangs up, in the middle of whatever is under way."""
        if self._reading is not None:
            self._reading.cancel()
            with suppress(asyncio.CancelledError):
                await self._reading
        if self._writer is not None:
            self._writer.transport.abort()
        self._end()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(9)
                payload = await reader.readexactly(int.from_bytes(head[:3], "big"))
                self._take(head[3], head[4], int.from_bytes(head[5:], "big") & MOST, payload)
        self._end()

    def _end(self) -> None:
        self.is_open = False
        self.streams.cut()
        self._granted.set()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == Frame.WINDOW_UPDATE:
            self._windows.take_update(stream, payload)
            self._granted.set()
        elif kind in (Frame.SETTINGS, Frame.PING) and not flags & ACK and self._polite:
            if kind == Frame.SETTINGS:
                self._windows.take_settings(payload)
                self._granted.set()
            self.send(frame(kind, ACK, 0, payload if kind == Frame.PING else b""))
        elif kind == Frame.GOAWAY:
            self.sent_away.set()
        else:
            self.streams.take(kind, flags, stream, payload)

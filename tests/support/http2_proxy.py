"""A proxy for HTTP/2 that can cut the streams on it as proxies do: with a reset, or with a status of its own.

It hands whole frames on as they are, so that it needs no HTTP/2 of its own; only what a cut sends is made here.
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType

from drills.raw_http2.frames import END_HEADERS, END_STREAM, MOST, PREFACE, Frame, frame, header_block

Cut = Callable[[int, bool], bytes]
"""Makes the frames that end a stream, given its number and whether its response headers have been sent."""


def reset(code: int) -> Cut:
    """Resets the streams with one of HTTP/2's error codes; Envoy takes 2, INTERNAL_ERROR, when its upstream is lost."""
    return lambda stream, _: frame(Frame.RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def status(code: int, text: bytes = b"upstream request timeout") -> Cut:
    """Ends the streams with a gRPC status without details."""

    def cut(stream: int, begun: bool) -> bytes:
        fields = [] if begun else [(b":status", b"200"), (b"content-type", b"application/grpc")]
        fields += [(b"grpc-status", b"%d" % code), (b"grpc-message", text)]
        return frame(Frame.HEADERS, END_HEADERS | END_STREAM, stream, header_block(fields))

    return cut


def page(code: int) -> Cut:
    """Answers with a page that is no gRPC at all, or resets the stream if the answer had begun."""

    def cut(stream: int, begun: bool) -> bytes:
        if begun:
            return reset(2)(stream, begun)
        fields = [(b":status", b"%d" % code), (b"content-type", b"text/html")]
        return frame(Frame.HEADERS, END_HEADERS, stream, header_block(fields)) + frame(
            Frame.DATA, END_STREAM, stream, b"<h1>Bad Gateway</h1>"
        )

    return cut


@dataclass(eq=False)
class _Connection:
    """A client's connection.

    Attributes:
        begun: whether the response headers of each open stream have been sent, by the stream's number.
        asked: how many streams were opened on it.
        last: the highest of their numbers.
    """

    client: asyncio.StreamWriter
    begun: dict[int, bool] = field(default_factory=dict)
    last: int = 0


class Http2Proxy:
    """Listens on a free port and hands connections on to targets, in turn.

    Args:
        targets: where to; the first connection goes to the first one.
        holding: keeps all answers back until the first cut.
    """

    def __init__(self, targets: Sequence[str], *, holding: bool = False) -> None:
        self._targets = itertools.cycle(targets)
        self._holding = holding
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.opened = 0  # streams so far

    async def __aenter__(self) -> "Http2Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def target(self) -> str:
        assert self._server is not None
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self, how: Cut) -> int:
        """Ends all open streams and their connections; returns how many streams there were."""
        self._holding = False
        ended = 0
        for connection in list(self._connections):
            self._connections.discard(connection)
            for stream, begun in connection.begun.items():
                connection.client.write(how(stream, begun))
                ended += 1
            connection.client.write(frame(Frame.GOAWAY, 0, 0, connection.last.to_bytes(4, "big") + bytes(4)))
            connection.client.close()
        return ended

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        host, _, port = next(self._targets).rpartition(":")
        connection = _Connection(writer)
        self._connections.add(connection)
        upstream: asyncio.StreamWriter | None = None
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                answers, upstream = await asyncio.open_connection(host, int(port))
                upstream.write(await reader.readexactly(len(PREFACE)))
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._hand_up(connection, reader, upstream))
                    group.create_task(self._hand_down(connection, answers))
        finally:
            self._connections.discard(connection)
            for open_one in (writer, upstream):
                if open_one is not None:
                    open_one.close()

    async def _hand_up(self, connection: _Connection, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head, payload = await _read_frame(reader)
                stream = int.from_bytes(head[5:], "big") & MOST
                if head[3] == Frame.HEADERS and stream > connection.last:
                    connection.begun[stream], connection.last = False, stream
                    self.opened += 1
                elif head[3] == Frame.RST_STREAM:
                    connection.begun.pop(stream, None)
                upstream.write(head + payload)
                await upstream.drain()
        upstream.close()

    async def _hand_down(self, connection: _Connection, answers: asyncio.StreamReader) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head, payload = await _read_frame(answers)
                stream = int.from_bytes(head[5:], "big") & MOST
                if connection not in self._connections:
                    return  # it was cut: nothing may come after its last frame
                if self._holding and head[3] in (Frame.HEADERS, Frame.DATA):
                    continue
                if head[3] == Frame.HEADERS and stream in connection.begun:
                    connection.begun[stream] = True
                if (head[3] in (Frame.HEADERS, Frame.DATA) and head[4] & END_STREAM) or head[3] == Frame.RST_STREAM:
                    connection.begun.pop(stream, None)
                connection.client.write(head + payload)
                await connection.client.drain()


async def _read_frame(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(9)
    return head, await reader.readexactly(int.from_bytes(head[:3], "big"))

"""One connection to Redis on which calls follow one another without waiting for each other's replies.

redis-py opens it, with TLS, authentication and the choice of the database; from then on bytes go straight between its
transport and hiredis. What a frame's scripts cost through redis-py is several times as much; see docs/performance.md.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import hiredis

LOOK_INTERVAL = 1.0  # seconds


class PipeClosedError(Exception):
    """The connection has ended; what was sent may have been executed."""


class RedisPipe(asyncio.Protocol):
    """Takes over a connection that redis-py has opened with RESP3, and owns it from then on.

    Args:
        opened: redis-py's connection.
        parse_error: makes an exception of an error reply.
        longest_silence: seconds that a call waits for its reply; then the connection is taken for half open and closed.
        on_push: gets what comes without having been asked for, such as a channel's messages; None when the connection ends.

    Attributes:
        closed: whether it has ended.
        refusal: the error reply to a command that was sent without waiting for one.
        heard: when something came last, on the monotonic clock.
    """

    def __init__(
        self,
        opened: Any,
        parse_error: Callable[[str], Exception],
        longest_silence: float,
        on_push: Callable[[list[Any] | None], None] | None = None,
    ) -> None:
        self.closed = False
        self.refusal: Exception | None = None
        self.heard = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._replies = hiredis.Reader(replyError=parse_error)
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._longest_silence = longest_silence
        self._on_push = on_push
        # Taken out, so that redis-py does not close it as one of its own that was forgotten; kept, so that it does not itself.
        self._stream, opened._writer, opened._reader = opened._writer, None, None
        self._transport: Any = self._stream.transport
        self._transport.set_protocol(self)
        self._look()

    def _look(self) -> None:
        """Closes a connection on which a call has waited for too long."""
        if self.closed:
            return
        if self._waiting and time.monotonic() - self._waiting[0][1] > self._longest_silence:
            self.close()
        else:
            self._loop.call_later(LOOK_INTERVAL, self._look)

    def send(self, *arguments: Any) -> None:
        """Sends a command that has no reply but pushes.

        Raises:
            PipeClosedError: the connection has ended.
        """
        if self.closed or self._transport.is_closing():
            raise PipeClosedError
        packed = hiredis.pack_command(arguments)
        try:
            self._transport.write(packed)
        except RuntimeError as error:
            # uvloop's word for a connection that was reset since the look above; asyncio's loop only warns.
            raise PipeClosedError from error

    def call(self, *arguments: Any) -> "asyncio.Future[Any]":
        """Sends a command; the future brings its reply, an error reply as an exception.

        Raises:
            PipeClosedError: the connection has ended. The future may bring it, too.
        """
        self.send(*arguments)
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append((future, time.monotonic()))
        return future

    def data_received(self, data: bytes) -> None:
        self.heard = time.monotonic()
        self._replies.feed(data)
        try:
            while (reply := self._replies.gets()) is not False:
                self._take(reply)
        except hiredis.ProtocolError:
            self.close()

    def _take(self, reply: Any) -> None:
        if isinstance(reply, hiredis.PushNotification):
            if self._on_push is not None:
                self._on_push(reply)
            return
        if not self._waiting:
            self.refusal = reply if isinstance(reply, Exception) else None
            self.close()
            return
        future = self._waiting.popleft()[0]
        if future.done():
            return  # its caller does not wait any more
        if isinstance(reply, Exception):
            future.set_exception(reply)
        else:
            future.set_result(reply)

    def connection_lost(self, _: Exception | None) -> None:
        if self._on_push is not None and not self.closed:
            self._on_push(None)
        self.closed = True
        while self._waiting:
            future = self._waiting.popleft()[0]
            if not future.done():
                future.set_exception(PipeClosedError())
                future.exception()  # looked at, in case that its caller does not wait any more

    def close(self) -> None:
        """Closes the connection; calls that wait for their replies end with PipeClosedError."""
        self._transport.abort()
        self.connection_lost(None)

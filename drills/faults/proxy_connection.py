"""A client's connection to a proxy, together with the one to the target that belongs to it."""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import cast

from drills.faults.proxy_link import Link
from drills.faults.proxy_stream import End, Stream

RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, zero seconds
CONNECT_SECONDS = 5.0
WRITE_BUFFER_BYTES = 1 << 18


class Connection:
    """Two sides and the two streams between them.

    Args:
        target: host and port.
        over: called once, when nothing is carried any more.
    """

    def __init__(self, to_target: Link, to_client: Link, target: tuple[str, int], over: "Callable[[Connection], None]") -> None:
        self._to_target = Stream(to_target, self._close_if_ended, self.reset)
        self._to_client = Stream(to_client, self._close_if_ended, self.reset)
        self._target_address = target
        self._over = over
        self.client = Side(self._to_target, self._to_client, self._call_target)
        self._target = Side(self._to_client, self._to_target)
        self._calling: asyncio.Task[None] | None = None
        self._is_over = False

    def look(self) -> None:
        """Acts on a change of the links."""
        if self._to_target.is_to_be_reset or self._to_client.is_to_be_reset:
            self.reset()
            return
        self._to_target.move()
        self._to_client.move()

    def reset(self) -> None:
        """Resets both sides."""
        self._finish()
        self.client.reset()
        self._target.reset()

    def _call_target(self) -> None:
        # What the client sends meanwhile waits in the stream.
        self._calling = asyncio.create_task(self._call())

    async def _call(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await loop.create_connection(lambda: self._target, *self._target_address)
        except OSError:  # refused, unreachable, timed out: the client hears of it as of anything else from there
            self._to_client.end(End.BROKEN)

    def _close_if_ended(self) -> None:
        if self._to_target.has_ended and self._to_client.has_ended:
            self._finish()
            self.client.close()
            self._target.close()

    def _finish(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._calling is not None:
            self._calling.cancel()
        self._to_target.close()
        self._to_client.close()
        self._over(self)


class Side(asyncio.Protocol):
    """One of a connection's two sockets.

    Args:
        outgoing: carries what it receives.
        incoming: brings what it is to send.
        opened: called when it is connected.
    """

    def __init__(self, outgoing: Stream, incoming: Stream, opened: Callable[[], None] | None = None) -> None:
        self._outgoing = outgoing
        self._incoming = incoming
        self._opened = opened
        self._transport: asyncio.Transport | None = None
        self._is_unwanted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclasses of asyncio's.
        self._transport = transport = cast("asyncio.Transport", transport)
        if self._is_unwanted:
            self.reset()
            return
        transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._outgoing.flows_from(transport)
        self._incoming.flows_to(transport)
        if self._opened is not None:
            self._opened()

    def data_received(self, data: bytes) -> None:
        self._outgoing.carry(data)

    def eof_received(self) -> bool:
        self._outgoing.end(End.CLOSED)
        return True  # the other direction may still be in use

    def connection_lost(self, exc: Exception | None) -> None:
        self._incoming.close()
        self._outgoing.end(End.BROKEN if exc is not None else End.CLOSED)

    def pause_writing(self) -> None:
        self._incoming.sink_is_full(True)

    def resume_writing(self) -> None:
        self._incoming.sink_is_full(False)

    def close(self) -> None:
        """Closes it behind what is still to be sent."""
        self._is_unwanted = True
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Closes it with a reset, now."""
        self._is_unwanted = True
        if self._transport is not None and not self._is_closed(self._transport):
            connection = self._transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self._transport.abort()

    @staticmethod
    def _is_closed(transport: asyncio.Transport) -> bool:
        connection = transport.get_extra_info("socket")
        return connection is None or connection.fileno() < 0

"""The bytes on their way through a proxied connection in one direction, and the end that follows them."""

import asyncio
import fcntl
import socket
import struct
import termios
from collections import deque
from collections.abc import Callable
from enum import Enum, auto

from drills.faults.proxy_link import Link, Silence

QUEUE_BYTES = 1 << 20  # more is not read before some has gone on
SENT_LOOK_SECONDS = 0.001


class End(Enum):
    """How a side ended what it sends."""

    CLOSED = auto()  # it sends nothing more, but may still read
    BROKEN = auto()  # its connection was reset


class Backlog:
    """What has been received and not yet sent on, counted in its link too.

    Attributes:
        bytes: how many wait.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._chunks: deque[tuple[float, float, bytes]] = deque()  # when it came, its share of the jitter, what
        self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self._chunks)

    def add(self, arrived: float, chunk: bytes) -> None:
        self._chunks.append((arrived, self._link.throw(), chunk))
        self._count(len(chunk))

    def due(self) -> float:
        """Returns when the first chunk may go on, as things stand."""
        arrived, share, _ = self._chunks[0]
        return self._link.due(arrived, share)

    def take(self) -> bytes:
        """Takes the first chunk out, or as much of it as the link lets pass at once."""
        arrived, share, chunk = self._chunks.popleft()
        size = self._link.largest_piece()
        if size is not None and len(chunk) > size:
            chunk, rest = chunk[:size], chunk[size:]
            self._chunks.appendleft((arrived, share, rest))
        self._count(-len(chunk))
        return chunk

    def clear(self) -> None:
        self._chunks.clear()
        self._count(-self.bytes)

    def _count(self, change: int) -> None:
        self.bytes += change
        self._link.waiting += change


class Stream:
    """Carries what one transport receives to another, as its link says.

    As long as the link is transparent and nothing waits, bytes go straight from one socket to the other.

    Args:
        ended: called when the end has been passed on.
        cut: resets the connection, both sides.
    """

    def __init__(self, link: Link, ended: Callable[[], None], cut: Callable[[], None]) -> None:
        self._link = link
        self._ended = ended
        self._cut = cut
        self._loop = asyncio.get_running_loop()
        self._source: asyncio.Transport | None = None
        self._sink: asyncio.Transport | None = None
        self._waiting = Backlog(link)
        self._timer: asyncio.TimerHandle | None = None
        self._end: End | None = None
        self._is_sink_full = False
        self._is_over = False
        self._has_lost_something = False
        self.has_ended = False  # and the end has been passed on

    def flows_from(self, source: asyncio.Transport) -> None:
        self._source = source
        self._steer_source()

    def flows_to(self, sink: asyncio.Transport) -> None:
        self._sink = sink
        self.move()

    def close(self) -> None:
        """Drops what waits; nothing is carried any more."""
        self._is_over = True
        self._waiting.clear()
        self._cancel_timer()

    @property
    def is_to_be_reset(self) -> bool:
        """Whether its bytes are wanted again after some were swallowed."""
        return self._has_lost_something and self._link.silence is None

    def carry(self, chunk: bytes) -> None:
        """Takes what the source received."""
        if self._is_over:
            return
        if self._sink is not None and not self._waiting and self._link.is_transparent:
            self._link.passed += len(chunk)
            self._sink.write(chunk)
        elif self._link.silence is Silence.SWALLOWED:
            self._has_lost_something = True
            self._link.swallowed += len(chunk)
        else:
            self._waiting.add(self._loop.time(), chunk)
            self.move()

    def end(self, how: End) -> None:
        """Takes the source's end, which is passed on behind its bytes."""
        if self._link.silence is Silence.SWALLOWED:
            self._has_lost_something = True
        self._end = how
        self.move()

    def sink_is_full(self, is_full: bool) -> None:
        self._is_sink_full = is_full
        if not is_full:
            self.move()
        self._steer_source()

    def move(self) -> None:
        """Sends on what is due, and comes back for the rest."""
        self._cancel_timer()
        while self._may_move() and self._waiting:
            wait = self._waiting.due() - self._loop.time()
            if wait > 0:
                self._timer = self._loop.call_later(wait, self.move)
                break
            self._send_next()
        # After its end a side may still break, and a reset overtakes nothing that is on its way.
        is_end_due = self._end is End.BROKEN or (self._end is End.CLOSED and not self.has_ended)
        if self._may_move() and not self._waiting and is_end_due:
            self._pass_end_on()
        self._steer_source()

    def _may_move(self) -> bool:
        return self._sink is not None and not self._is_sink_full and not self._is_over and self._link.silence is None

    def _send_next(self) -> None:
        assert self._sink is not None
        piece, is_last = self._link.send(self._waiting.take(), self._loop.time())
        if piece:
            self._sink.write(piece)
        if is_last:
            self.close()
            self._cut_when_sent()

    def _cut_when_sent(self) -> None:
        """Cuts once the sink's kernel has the last byte acknowledged; a reset would throw away what has not left."""
        assert self._sink is not None
        if self._sink.is_closing() or unsent_bytes(self._sink) == 0:
            self._cut()
        else:
            self._loop.call_later(SENT_LOOK_SECONDS, self._cut_when_sent)

    def _pass_end_on(self) -> None:
        assert self._sink is not None
        if self._end is End.BROKEN:
            self._cut()
            return
        self.has_ended = True
        if not self._sink.is_closing():
            self._sink.write_eof()
        self._ended()

    def _steer_source(self) -> None:
        """Stops reading while too much waits, so that the sender feels it as it would without a proxy."""
        source = self._source
        if source is None or source.is_closing():
            return
        is_full = self._waiting.bytes >= QUEUE_BYTES or self._is_sink_full
        if is_full and source.is_reading():
            source.pause_reading()
        elif not is_full and not source.is_reading() and self._end is None:
            source.resume_reading()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def unsent_bytes(transport: asyncio.Transport) -> int:
    """Returns how many written bytes the other side's kernel does not have yet."""
    connection: socket.socket = transport.get_extra_info("socket")
    (in_kernel,) = struct.unpack("=i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)))
    return transport.get_write_buffer_size() + int(in_kernel)

"""Tells calls whose client has left.

Envoy's module says so only to who writes, and a call whose generation still waits writes nothing for a long time. So Envoy
writes a line to a pipe for each request whose client has left before it was answered (an access log with a filter), and
this end of the pipe cancels the call of that line.
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Set by Envoy on each request, whatever the client sent: what its line on the pipe will be.
STREAM_HEADER = b"x-tokenrelay-stream"
REMEMBERED = 4096  # departures whose call has not begun here; Envoy hands a call over and writes its line independently
READ_BYTES = 65_536


class Departures:
    """Reads the pipe, and cancels the tasks of those who have left."""

    def __init__(self) -> None:
        self._open: dict[bytes, asyncio.Task[Any]] = {}
        self._early: OrderedDict[bytes, None] = OrderedDict()
        self._rest = b""

    def watch(self, pipe: int) -> None:
        """Reads a pipe on the running event loop, until it is closed."""
        os.set_blocking(pipe, False)
        asyncio.get_running_loop().add_reader(pipe, self._read, pipe)

    @contextmanager
    def expected(self, stream: bytes | None, task: asyncio.Task[Any]) -> Iterator[None]:
        """Cancels a task if the client of its stream leaves meanwhile; None is no stream of Envoy's."""
        if stream is None:
            yield
            return
        if stream in self._early:
            del self._early[stream]
            task.cancel()
        self._open[stream] = task
        try:
            yield
        finally:
            del self._open[stream]

    def _read(self, pipe: int) -> None:
        try:
            chunk = os.read(pipe, READ_BYTES)
        except BlockingIOError:
            return
        if not chunk:
            asyncio.get_running_loop().remove_reader(pipe)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for stream in lines:
            self.left(stream)

    def left(self, stream: bytes) -> None:
        """Cancels the call of a stream, now or when it begins."""
        task = self._open.get(stream)
        if task is not None:
            task.cancel()
            return
        self._early[stream] = None
        if len(self._early) > REMEMBERED:
            self._early.popitem(last=False)

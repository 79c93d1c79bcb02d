"""A client that asks for a long answer and does not take it: made of frames by hand, since a library would read."""

import asyncio
import socket
import struct
from contextlib import suppress
from enum import Enum

from drills.raw_http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    INITIAL_WINDOW_SIZE,
    MOST,
    PREFACE,
    WINDOW,
    Frame,
    frame,
    header_block,
    message,
    request_fields,
)
from tokenrelay.v1 import generation_pb2, generation_service_pb2

METHOD = b"/tokenrelay.v1.GenerationService/GenerateStream"
STREAM = 1
HEAD = 9  # bytes before a frame's payload
CHOICES, TOKENS = 16, 100_000  # of each stream, so that much comes in a short time
LITTLE = 4096  # bytes that the kernel keeps for the client, so that it is the server that has to


class Unread(Enum):
    """How a client takes nothing; the value says it to people."""

    NO_WINDOW = "never read: no window beyond 64 KiB is granted"  # and pings are answered, so it is alive for the server
    FULL_SOCKET = "never read: the largest window, and a socket that is full"


class UnreadStream:
    """One connection with one stream.

    Args:
        target: host:port.
        kind: how nothing is taken.
    """

    def __init__(self, target: str, kind: Unread) -> None:
        host, _, port = target.rpartition(":")
        self._address = host, int(port)
        self._kind = kind
        self._socket = socket.socket()
        self._answering: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Asks for the answer."""
        loop = asyncio.get_running_loop()
        self._socket.setblocking(False)
        if self._kind is Unread.FULL_SOCKET:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LITTLE)
        await loop.sock_connect(self._socket, self._address)
        await loop.sock_sendall(self._socket, PREFACE + self._settings())
        await self._something_has_come()
        # A server closes the connection of a client that never agrees to its settings.
        asked = frame(Frame.HEADERS, END_HEADERS, STREAM, header_block(request_fields(METHOD)))
        body = frame(Frame.DATA, END_STREAM, STREAM, message(_request()))
        await loop.sock_sendall(self._socket, frame(Frame.SETTINGS, ACK, 0) + asked + body)
        if self._kind is Unread.NO_WINDOW:
            self._answering = asyncio.create_task(self._answer_pings())

    def _settings(self) -> bytes:
        window = WINDOW if self._kind is Unread.NO_WINDOW else MOST
        settings = frame(Frame.SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, window))
        if window == WINDOW:
            return settings
        # The connection's own window is not among the settings.
        return settings + frame(Frame.WINDOW_UPDATE, 0, 0, (window - WINDOW).to_bytes(4, "big"))

    async def _something_has_come(self) -> None:
        """Waits for the server's settings, and leaves them where they are."""
        loop, come = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._socket, come.set)
        try:
            await come.wait()
        finally:
            loop.remove_reader(self._socket)

    async def _answer_pings(self) -> None:
        loop, received = asyncio.get_running_loop(), b""
        with suppress(ConnectionError):
            while piece := await loop.sock_recv(self._socket, 65_536):
                received += piece
                while len(received) >= HEAD and len(received) >= (whole := HEAD + int.from_bytes(received[:3], "big")):
                    kind, flags, payload = received[3], received[4], received[HEAD:whole]
                    received = received[whole:]
                    if kind == Frame.PING and not flags & ACK:
                        await loop.sock_sendall(self._socket, frame(Frame.PING, ACK, 0, payload))

    async def close(self) -> None:
        """Hangs up."""
        if self._answering is not None:
            self._answering.cancel()
            with suppress(asyncio.CancelledError):
                await self._answering
        self._socket.close()


def _request() -> bytes:
    # All choices of a greedy answer would be equal, so that it may have but one.
    parameters = generation_pb2.SamplingParams(temperature=1.0, max_tokens=TOKENS, ignore_eos=True, n=CHOICES)
    spec = generation_pb2.GenerationSpec(text="a long answer", sampling_params=parameters)
    return generation_service_pb2.GenerateStreamRequest(spec=spec).SerializeToString()

"""gRPC's messages in a request's body: a flag, a length of four bytes, and the message."""

import zlib
from collections.abc import Awaitable, Callable
from typing import Any

from tokenrelay.errors import InvalidRequestError, MessageTooLargeError, UnimplementedError
from tokenrelay.serving.budget import Budget
from tokenrelay.serving.exchange import ClientGoneError

Receive = Callable[[], Awaitable[dict[str, Any]]]

PREFIX_BYTES = 5
# How zlib is told which header the data have.
WINDOWS = {b"gzip": 16 + zlib.MAX_WBITS, b"deflate": zlib.MAX_WBITS}
PREFIX_OF = [b"\0" + length.to_bytes(4, "big") for length in range(1024)]


def framed(message: bytes) -> bytes:
    """Returns a message with its prefix, uncompressed."""
    length = len(message)
    return (PREFIX_OF[length] if length < len(PREFIX_OF) else b"\0" + length.to_bytes(4, "big")) + message


class Requests:
    """The messages of one request's body, as they arrive.

    Args:
        receive: ASGI's.
        encoding: the request's grpc-encoding.
        max_bytes: the largest message. No more than this and one chunk of the body are held at a time.
        budget: from which the bytes are taken that are held, until their message is whole.
    """

    def __init__(self, receive: Receive, encoding: bytes, max_bytes: int, budget: Budget) -> None:
        self._receive = receive
        self._encoding = encoding
        self._max_bytes = max_bytes
        self._budget = budget
        self._buffer = bytearray()
        self.is_complete = False

    def __aiter__(self) -> "Requests":
        return self

    async def __anext__(self) -> bytes:
        """Returns the next message; what is left when the body ends is no whole message, and is dropped.

        Raises:
            MessageTooLargeError: a message is larger than allowed, compressed or not.
            InvalidRequestError: a message is compressed and says not how, or is not what it says.
            UnimplementedError: a message is compressed in a way that this server does not know.
            UnavailableError: this process holds too many bytes of requests that are not whole yet.
            ClientGoneError: the client has left.
        """
        while (message := self._next()) is None:
            if self.is_complete:
                raise StopAsyncIteration
            await self._read()
        return message

    def close(self) -> None:
        """Drops what has come of a message that will never be whole."""
        self._drop(len(self._buffer))

    def _drop(self, size: int) -> None:
        del self._buffer[:size]
        self._budget.give_back(size)

    async def _read(self) -> None:
        event = await self._receive()
        if event["type"] != "http.request":
            raise ClientGoneError("the client left before its request was complete")
        body = event.get("body", b"")
        self._budget.take(len(body), own=len(self._buffer))
        self._buffer += body
        self.is_complete = not event.get("more_body", False)

    def _next(self) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < PREFIX_BYTES:
            return None
        length = int.from_bytes(buffer[1:PREFIX_BYTES], "big")
        if length > self._max_bytes:
            raise MessageTooLargeError(f"the request has {length} bytes; at most {self._max_bytes} are allowed")
        end = PREFIX_BYTES + length
        if len(buffer) < end:
            return None
        flag, message = buffer[0], bytes(buffer[PREFIX_BYTES:end])
        self._drop(end)
        return message if flag == 0 else self._decompressed(flag, message)

    def _decompressed(self, flag: int, message: bytes) -> bytes:
        if flag != 1 or self._encoding == b"identity":
            raise InvalidRequestError("a message is flagged as compressed, but grpc-encoding says that none is")
        window = WINDOWS.get(self._encoding)
        if window is None:
            raise UnimplementedError("grpc-encoding is not known to this server; use identity, deflate or gzip")
        inflater = zlib.decompressobj(window)
        try:
            # One byte more than allowed tells a bomb from the largest message without unpacking the rest of it.
            whole = inflater.decompress(message, self._max_bytes + 1)
        except zlib.error:
            raise InvalidRequestError("a message is flagged as compressed, but is not what grpc-encoding says") from None
        if len(whole) > self._max_bytes:
            raise MessageTooLargeError(
                f"the request has more than {self._max_bytes} bytes when decompressed; at most {self._max_bytes} are allowed"
            )
        if not inflater.eof:
            raise InvalidRequestError("a compressed message is cut off")
        return whole

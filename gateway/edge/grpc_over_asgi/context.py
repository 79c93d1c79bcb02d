"""What a handler is given of its call: the calls of grpc.aio.ServicerContext that our handlers use, over ASGI's events."""

import asyncio
from typing import NoReturn

import grpc
from google.protobuf.message import Message

from gateway.edge.grpc_over_asgi import headers
from gateway.edge.grpc_over_asgi.headers import Metadata
from gateway.edge.grpc_over_asgi.messages import framed
from gateway.edge.grpc_over_asgi.response import Response, Send

OK = 0


class Context:
    """One call, as its handler sees it.

    Args:
        metadata: what the client sent, without the transport's own headers.
        send: ASGI's. Its OSError means that the client has left.
        deadline: on the event loop's clock; None if the client set none.
    """

    def __init__(self, metadata: Metadata, send: Send, deadline: float | None) -> None:
        self._metadata = metadata
        self._response = Response(send)
        self._deadline = deadline
        self._is_ended = False
        self._trailing: Metadata = ()
        self._code: grpc.StatusCode | None = None
        self._details = ""

    def invocation_metadata(self) -> Metadata:
        """Returns what the client sent, without the transport's own headers."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """Returns the seconds until the client's deadline; None if it set none."""
        return None if self._deadline is None else max(0.0, self._deadline - asyncio.get_running_loop().time())

    def code(self) -> grpc.StatusCode | None:
        """Returns the status that the handler has chosen; None if it has chosen none."""
        return self._code

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code

    def set_details(self, details: str) -> None:
        self._details = details

    def set_trailing_metadata(self, metadata: Metadata) -> None:
        self._trailing = metadata

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Metadata = ()) -> NoReturn:
        """Ends the call with a status.

        Raises:
            AbortError: always.
        """
        self._code, self._details = code, details
        self._trailing = (*self._trailing, *trailing_metadata)
        raise grpc.aio.AbortError("the handler has ended the call")

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        """Ends the call with a status and its details.

        Raises:
            AbortError: always.
        """
        await self.abort(status.code, status.details, status.trailing_metadata or ())

    async def send_initial_metadata(self, metadata: Metadata) -> None:
        """Sends the response's headers at once, before its first message is there."""
        await self._response.begin(headers.from_metadata(metadata))
        self._response.flush_soon()

    async def write(self, message: Message | bytes) -> None:
        """Sends a message, or the bytes of one. Waits while the client does not read.

        Raises:
            ClientGoneError: the client has left.
        """
        if not self._response.is_begun:
            await self._response.begin([])
        await self._response.write(framed(message if isinstance(message, bytes) else message.SerializeToString()))

    async def end(self, code: int | None = None, details: str = "") -> None:
        """Ends the call: with a status, or with what the handler has chosen, OK if it has chosen nothing."""
        # The deadline may pass while the end is being sent, and its own end would then come after the last event.
        if self._is_ended:
            return
        self._is_ended = True
        if code is None:
            code, details = (OK, "") if self._code is None else (self._code.value[0], self._details)
        trailers = [*headers.status(code, details), *headers.from_metadata(self._trailing)]
        await self._response.end(trailers)

    def close(self) -> None:
        """Sends nothing more."""
        self._response.close()

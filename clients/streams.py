"""What the streams of both clients have in common: their state, and which call opens them next."""

from typing import Any

from tokenrelay.client.connections import MetadataPairs
from tokenrelay.client.resumption import Deadline, Position
from tokenrelay.client.tracing import CallSpan
from tokenrelay.errors import GenerationCancelledError, TokenrelayError
from tokenrelay.v1 import generation_pb2, generation_service_pb2


class StreamState:
    """A generation that is read, through one call after the other if need be.

    Attributes:
        position: where it stands; has the generation's id.
    """

    def __init__(
        self,
        request: generation_service_pb2.GenerateStreamRequest | None,
        position: Position,
        deadline: Deadline,
        metadata: MetadataPairs,
    ) -> None:
        self.position = position
        self._request = request
        self._deadline = deadline
        self._metadata = metadata
        model = request.spec.model if request else ""
        self._span = CallSpan("GenerateStream" if request else "AttachGeneration", model)
        self._call: Any = None
        self._closed = False

    @property
    def generation_id(self) -> str:
        """The generation's id; empty until it is accepted."""
        return self.position.generation_id

    @property
    def finished(self) -> generation_pb2.Finished | None:
        """How it ended; None until then."""
        return self.position.finished

    def _open(self, stub: Any) -> Any:
        """Makes the next call: the first one, or one that goes on where the last one broke."""
        left, metadata = self._deadline.left(), (*self._metadata, *self._span.metadata)
        if self.generation_id:
            request = generation_service_pb2.AttachGenerationRequest(
                generation_id=self.generation_id, after_sequence=self.position.sequence
            )
            self._call = stub.AttachGeneration(request, timeout=left, metadata=metadata)
        else:
            assert self._request is not None
            self._call = stub.GenerateStream(self._request, timeout=left, metadata=metadata)
        if self._closed:  # by another thread just now, or while this one waited before it tried again
            self._call.cancel()
        return self._call

    def _leave(self) -> None:
        """Ends the call and the span; whoever reads meanwhile gets an error."""
        self._closed = True
        if self._call is not None:
            self._call.cancel()
        self._span.end(self._closed_early() if self.finished is None else None)

    def _closed_early(self) -> TokenrelayError:
        return self._named(GenerationCancelledError("the stream was closed before its end"))

    def _is_given_up(self, client_closed: bool) -> bool:
        """Tells whether a call that failed was ended by this side."""
        return self._closed or client_closed

    def _is_to_be_cancelled(self) -> bool:
        """Tells whether leaving now means that nobody wants the generation any more."""
        return self._request is not None and self.finished is None and bool(self.generation_id)

    def _named(self, error: TokenrelayError) -> TokenrelayError:
        error.generation_id = error.generation_id or self.generation_id or None
        return error

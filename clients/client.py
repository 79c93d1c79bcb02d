"""The synchronous client."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar

import grpc

from tokenrelay.client.connections import DEFAULT_TARGET, Targets, to_error
from tokenrelay.client.requests import Options, Prompt, to_generate, to_stream, to_submit
from tokenrelay.client.resumption import Backoff, Deadline, Position, RetryPolicy
from tokenrelay.client.streams import StreamState
from tokenrelay.client.tracing import CallSpan
from tokenrelay.errors import TokenrelayError, UnavailableError
from tokenrelay.v1 import (
    generation_pb2,
    generation_service_pb2,
    generation_service_pb2_grpc,
    model_service_pb2,
    model_service_pb2_grpc,
)

Response = TypeVar("Response")
Stub = generation_service_pb2_grpc.GenerationServiceStub
CANCEL_SECONDS = 5.0  # for the cancel of a stream that is closed early


class Client:
    """Calls one gateway, and the next one when it fails.

    Args:
        targets: "host:port", several separated by commas, or a sequence of them.
        timeout: seconds for each generation from its call to its end; None for no limit. A call may set its own.
        retry: how the library tries again by itself.
    """

    def __init__(
        self, targets: str | Sequence[str] = DEFAULT_TARGET, *, timeout: float | None = None, retry: RetryPolicy | None = None
    ) -> None:
        self._targets: Targets[grpc.Channel] = Targets(targets, grpc.insecure_channel)
        self._timeout = timeout
        self._retry = retry or RetryPolicy()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes all connections."""
        for channel in self._targets.take_all():
            channel.close()

    def generate(
        self, prompt: Prompt, *, model: str = "", timeout: float | None = None, options: Options | None = None, **sampling: Any
    ) -> generation_pb2.Generation:
        """Generates and returns the whole answer.

        Args:
            prompt: text, token ids, or chat messages.
            model: empty for the only one served.
            timeout: seconds; unset: the client's.
            options: idempotency key, limits, disconnect policy.
            sampling: fields of tokenrelay.v1.SamplingParams.

        Raises:
            TokenrelayError: what went wrong.
        """
        request = to_generate(prompt, model, options, sampling)
        with CallSpan("Generate", model) as span:
            response = self._call(lambda stub, left: stub.Generate(request, timeout=left, metadata=span.metadata), timeout)
        return response.generation

    def stream(
        self, prompt: Prompt, *, model: str = "", timeout: float | None = None, options: Options | None = None, **sampling: Any
    ) -> "Stream":
        """Generates and returns the answer as it comes; the arguments are those of generate."""
        request = to_stream(prompt, model, options, sampling)
        return Stream(self, request, Position(), self._deadline(timeout))

    def submit(self, prompt: Prompt, *, model: str = "", options: Options | None = None, **sampling: Any) -> str:
        """Has a generation run by itself; returns its id. The arguments are those of generate."""
        request = to_submit(prompt, model, options, sampling)
        with CallSpan("SubmitGeneration", model) as span:
            response = self._call(lambda stub, left: stub.SubmitGeneration(request, timeout=left, metadata=span.metadata), None)
        return response.generation_id

    def attach(self, generation_id: str, *, after_sequence: int = 0, timeout: float | None = None) -> "Stream":
        """Joins a generation after a sequence. Closing this stream early does not cancel the generation."""
        position = Position(generation_id, after_sequence, complete=after_sequence == 0)
        return Stream(self, None, position, self._deadline(timeout))

    def get(self, generation_id: str) -> generation_pb2.Generation:
        """Returns a generation as far as it got."""
        request = generation_service_pb2.GetGenerationRequest(generation_id=generation_id)
        return self._call(lambda stub, left: stub.GetGeneration(request, timeout=left), None).generation

    def cancel(self, generation_id: str) -> generation_pb2.GenerationState.ValueType:
        """Cancels a generation; returns where it stands."""
        request = generation_service_pb2.CancelGenerationRequest(generation_id=generation_id)
        return self._call(lambda stub, left: stub.CancelGeneration(request, timeout=left), None).state

    def models(self) -> list[model_service_pb2.Model]:
        """Returns what is served."""
        request = model_service_pb2.ListModelsRequest()

        def call(_: Any, left: float | None) -> model_service_pb2.ListModelsResponse:
            return model_service_pb2_grpc.ModelServiceStub(self._targets.channel()).ListModels(request, timeout=left)

        return list(self._call(call, None).models)

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline.after(self._timeout if timeout is None else timeout)

    def _stub(self) -> generation_service_pb2_grpc.GenerationServiceStub:
        return generation_service_pb2_grpc.GenerationServiceStub(self._targets.channel())

    def _call(
        self, call: Callable[[generation_service_pb2_grpc.GenerationServiceStub, float | None], Response], timeout: float | None
    ) -> Response:
        """Makes a call, again if it fails for want of a server."""
        deadline, backoff = self._deadline(timeout), Backoff(self._retry)
        while True:
            target = self._targets.current
            try:
                return call(self._stub(), deadline.left())
            except grpc.RpcError as error:
                self._recover(_translate(error, target), backoff, target)

    def _recover(self, error: TokenrelayError, backoff: Backoff, target: str) -> None:
        time.sleep(backoff.delay_after(error))
        self._targets.move_on_from(target)


class Stream(StreamState):
    """A generation's deltas as they come. After a lost connection it goes on by itself, with nothing lost or repeated.

    Closed before its end, it cancels the generation, unless it was attached.
    """

    def __init__(
        self,
        client: Client,
        request: generation_service_pb2.GenerateStreamRequest | None,
        position: Position,
        deadline: Deadline,
    ) -> None:
        super().__init__(request, position, deadline)
        self._client = client
        self._deltas = self._run()

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Iterator[generation_pb2.Delta]:
        return self._deltas

    def text(self) -> str:
        """Reads to the end and returns the text of the first choice that is still to come."""
        return "".join(delta.text for delta in self if delta.index == 0)

    def close(self) -> None:
        """Leaves; cancels a generation of its own that has not ended."""
        self._leave()
        with suppress(ValueError):  # another thread is reading: it is told by its call, which has been cancelled
            self._deltas.close()
        if self._is_to_be_cancelled():
            with suppress(grpc.RpcError):
                request = generation_service_pb2.CancelGenerationRequest(generation_id=self.generation_id)
                self._client._stub().CancelGeneration(request, timeout=CANCEL_SECONDS)

    def _run(self) -> Generator[generation_pb2.Delta, None, None]:
        backoff = Backoff(self._client._retry)
        with self._span:
            while self.finished is None:
                target = self._client._targets.current
                try:
                    for response in self._open(self._client._stub()):
                        delta = self.position.take(response.event)
                        backoff.progressed()
                        if delta is not None:
                            yield delta
                    self.position.check_end()
                except grpc.RpcError as error:
                    if self._closed:
                        raise self._closed_early() from None
                    self._client._recover(self._named(_translate(error, target)), backoff, target)
                except UnavailableError as error:
                    self._client._recover(self._named(error), backoff, target)
        self._call = None


def _translate(error: grpc.RpcError, target: str) -> TokenrelayError:
    call: Any = error  # what gRPC raises is the call itself
    return to_error(error, target, call.initial_metadata(), call.trailing_metadata())

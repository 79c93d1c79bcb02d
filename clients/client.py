"""The synchronous client."""

import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

import grpc

from tokenrelay.client import requests
from tokenrelay.client.connections import DEFAULT_TARGET, Metadata, MetadataPairs, Targets, check_metadata
from tokenrelay.client.failures import to_error
from tokenrelay.client.handshakes import Prober
from tokenrelay.client.requests import Options, Prompt, to_generate, to_stream, to_submit
from tokenrelay.client.resumption import Deadline, Position, Retries, RetryPolicy
from tokenrelay.client.streams import StreamState
from tokenrelay.client.tls import Path, Tls, secure
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
Call: TypeAlias = Callable[[Stub, float | None, MetadataPairs], Response]
CANCEL_SECONDS = 5.0  # for the cancel of a stream that is closed early


class Client:
    """Calls one gateway, and the next one when it fails.

    Args:
        targets: "host:port", several separated by commas, or a sequence of them.
        timeout: seconds for each generation from its call to its end; None for no limit. A call may set its own.
        retry: how the library tries again by itself.
        tls: True for TLS with a certificate of a public authority, the path of a file with another authority, or Tls with a
            certificate of the client's own; None: no encryption. All targets get the same.
        credentials: instead of tls, what gRPC has for other ways to secure a channel.
        api_key: of gateways that want one; sent with every call, those by which a stream goes on too.
        metadata: sent likewise.

    Raises:
        ValueError: a target is not of the form host:port, a file of tls cannot be used, or metadata or key cannot be sent.
    """

    def __init__(
        self,
        targets: str | Sequence[str] = DEFAULT_TARGET,
        *,
        timeout: float | None = None,
        retry: RetryPolicy | None = None,
        tls: bool | Path | Tls | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        api_key: str | None = None,
        metadata: Metadata | None = None,
    ) -> None:
        security = secure(tls, credentials)
        connect = (
            grpc.insecure_channel
            if security.credentials is None
            else partial(grpc.secure_channel, credentials=security.credentials)
        )
        self._targets: Targets[grpc.Channel] = Targets(targets, connect, security.options)
        self._prober = Prober(security)
        self._timeout = timeout
        self._retry = retry or RetryPolicy()
        self._metadata = check_metadata(metadata, api_key)
        Deadline.after(timeout)  # a wrong one is refused here, not by the first call

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

        If the connection breaks, the call is made again with the same idempotency key, so that the generation runs once.

        Args:
            prompt: text, token ids, or chat messages.
            model: empty for the only one served.
            timeout: seconds until the generation expires; unset: the client's.
            options: idempotency key, limits, disconnect policy.
            sampling: fields of tokenrelay.v1.SamplingParams; None means unset, which is the model's default.

        Raises:
            InvalidRequestError: an argument is out of range; names the field and the limit.
            GenerationExpiredError: the timeout passed.
            UnavailableError: no gateway answered for as long as RetryPolicy.give_up_after.
            TokenrelayError: what else went wrong; see tokenrelay.errors.
            TypeError: an argument is of a wrong type, or there is no such sampling parameter.
        """
        request = to_generate(prompt, model, options, sampling)
        with CallSpan("Generate", model) as span:
            response = self._call(
                lambda stub, left, metadata: stub.Generate(request, timeout=left, metadata=metadata), timeout, span.metadata
            )
        return response.generation

    def stream(
        self, prompt: Prompt, *, model: str = "", timeout: float | None = None, options: Options | None = None, **sampling: Any
    ) -> "Stream":
        """Generates and returns the answer as it comes; the arguments are those of generate.

        Nothing is sent before you begin to read. Close the stream, best with `with`: leaving it early cancels the generation.
        """
        request = to_stream(prompt, model, options, sampling)
        return Stream(self, request, Position(), self._deadline(timeout), self._metadata)

    def submit(self, prompt: Prompt, *, model: str = "", options: Options | None = None, **sampling: Any) -> str:
        """Has a generation run by itself; returns its id. The arguments are those of generate.

        Once this returns, the generation is stored on disk and runs to its end, whether you attach or not.
        """
        request = to_submit(prompt, model, options, sampling)
        with CallSpan("SubmitGeneration", model) as span:
            response = self._call(
                lambda stub, left, metadata: stub.SubmitGeneration(request, timeout=left, metadata=metadata),
                None,
                span.metadata,
            )
        return response.generation_id

    def attach(self, generation_id: str, *, after_sequence: int = 0, timeout: float | None = None) -> "Stream":
        """Joins a generation, from any gateway. Closing this stream early does not cancel the generation.

        Args:
            generation_id: as submit or a stream gave it.
            after_sequence: the last sequence that you have; 0 for everything from the first token on.
            timeout: seconds until the stream must have ended; unset: the client's.
        """
        position = Position(
            requests.generation_id(generation_id),
            requests.after_sequence(after_sequence),
            complete=after_sequence == 0,
        )
        return Stream(self, None, position, self._deadline(timeout), self._metadata)

    def get(self, generation_id: str) -> generation_pb2.Generation:
        """Returns a generation as far as it got: its state, its text up to now or its result, and its error if it failed."""
        request = generation_service_pb2.GetGenerationRequest(generation_id=requests.generation_id(generation_id))
        response = self._call(lambda stub, left, metadata: stub.GetGeneration(request, timeout=left, metadata=metadata), None)
        return response.generation

    def cancel(self, generation_id: str) -> generation_pb2.GenerationState.ValueType:
        """Cancels a generation; returns where it stands."""
        request = generation_service_pb2.CancelGenerationRequest(generation_id=requests.generation_id(generation_id))
        response = self._call(
            lambda stub, left, metadata: stub.CancelGeneration(request, timeout=left, metadata=metadata), None
        )
        return response.state

    def models(self) -> list[model_service_pb2.Model]:
        """Returns what is served."""
        request = model_service_pb2.ListModelsRequest()

        def call(_: Any, left: float | None, metadata: MetadataPairs) -> model_service_pb2.ListModelsResponse:
            stub = model_service_pb2_grpc.ModelServiceStub(self._targets.channel())
            return stub.ListModels(request, timeout=left, metadata=metadata)

        return list(self._call(call, None).models)

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline.after(self._timeout if timeout is None else timeout)

    def _stub(self) -> Stub:
        return generation_service_pb2_grpc.GenerationServiceStub(self._targets.channel())

    def _call(self, call: Call[Response], timeout: float | None, traced: MetadataPairs = ()) -> Response:
        """Makes a call, again if it fails for want of a server or of room."""
        deadline = self._deadline(timeout)
        retries = Retries(self._retry, deadline, len(self._targets))
        while True:
            target = self._targets.current
            try:
                return call(self._stub(), deadline.left(), (*self._metadata, *traced))
            except grpc.RpcError as error:
                time.sleep(retries.delay_after(self._translate(error, target, deadline)))
                self._targets.move_on_from(target)

    def _translate(self, error: grpc.RpcError, target: str, deadline: Deadline) -> TokenrelayError:
        call: Any = error  # what gRPC raises is the call itself
        failure = to_error(error, target, call.initial_metadata(), call.trailing_metadata(), expired=deadline.passed)
        return self._prober.explain(failure, target)


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
        metadata: MetadataPairs,
    ) -> None:
        super().__init__(request, position, deadline, metadata)
        self._client = client
        self._left = threading.Event()
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
        self._left.set()
        with suppress(ValueError):  # another thread is reading: it is told by its call, which has been cancelled
            self._deltas.close()
        if self._is_to_be_cancelled():
            with suppress(grpc.RpcError):
                request = generation_service_pb2.CancelGenerationRequest(generation_id=self.generation_id)
                stub = self._client._stub()
                stub.CancelGeneration(request, timeout=CANCEL_SECONDS, metadata=self._metadata)

    def _run(self) -> Generator[generation_pb2.Delta, None, None]:
        retries = Retries(self._client._retry, self._deadline, len(self._client._targets))
        with self._span:
            while self.finished is None:
                target = self._client._targets.current
                try:
                    for response in self._open(self._client._stub()):
                        delta = self.position.take(response.event)
                        retries.progressed()
                        if delta is not None:
                            yield delta
                    self.position.check_end()
                except grpc.RpcError as error:
                    self._wait_after(self._client._translate(error, target, self._deadline), retries, target)
                except UnavailableError as error:
                    self._wait_after(error, retries, target)
        self._call = None

    def _wait_after(self, error: TokenrelayError, retries: Retries, target: str) -> None:
        """Waits before the stream goes on through another gateway; raises the error if it is not to go on."""
        if self._is_given_up(self._client._targets.closed):
            raise self._closed_early() from None
        # Not a mere sleep: a gateway may have asked for many seconds, and who closes the stream must not wait for them.
        self._left.wait(retries.delay_after(self._named(error)))
        self._client._targets.move_on_from(target)

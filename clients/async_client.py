"""The asynchronous client; the same surface as the synchronous one."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

import grpc

from tokenrelay.client import requests
from tokenrelay.client.connections import DEFAULT_TARGET, Metadata, MetadataPairs, Targets, check_metadata
from tokenrelay.client.failures import to_error
from tokenrelay.client.handshakes import ClosedEarlyError, Prober
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
Stub: TypeAlias = "generation_service_pb2_grpc.GenerationServiceAsyncStub"
Call: TypeAlias = Callable[["Stub", float | None, MetadataPairs], Awaitable[Response]]
CANCEL_SECONDS = 5.0  # for the cancel of a stream that is closed early


class AsyncClient:
    """Calls one gateway, and the next one when it fails. To be used from one event loop.

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
            grpc.aio.insecure_channel
            if security.credentials is None
            else partial(grpc.aio.secure_channel, credentials=security.credentials)
        )
        self._targets: Targets[grpc.aio.Channel] = Targets(targets, connect, security.options)
        self._prober = Prober(security)
        self._timeout = timeout
        self._retry = retry or RetryPolicy()
        self._metadata = check_metadata(metadata, api_key)
        Deadline.after(timeout)  # a wrong one is refused here, not by the first call

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes all connections."""
        for channel in self._targets.take_all():
            await channel.close()

    async def generate(
        self, prompt: Prompt, *, model: str = "", timeout: float | None = None, options: Options | None = None, **sampling: Any
    ) -> generation_pb2.Generation:
        """Generates and returns the whole answer; see Client.generate."""
        request = to_generate(prompt, model, options, sampling)
        with CallSpan("Generate", model) as span:
            response = await self._call(
                lambda stub, left, metadata: stub.Generate(request, timeout=left, metadata=metadata), timeout, span.metadata
            )
        return response.generation

    def stream(
        self, prompt: Prompt, *, model: str = "", timeout: float | None = None, options: Options | None = None, **sampling: Any
    ) -> "AsyncStream":
        """Generates and returns the answer as it comes; see Client.stream."""
        request = to_stream(prompt, model, options, sampling)
        return AsyncStream(self, request, Position(), self._deadline(timeout), self._metadata)

    async def submit(self, prompt: Prompt, *, model: str = "", options: Options | None = None, **sampling: Any) -> str:
        """Has a generation run by itself; returns its id. See Client.submit."""
        request = to_submit(prompt, model, options, sampling)
        with CallSpan("SubmitGeneration", model) as span:
            response = await self._call(
                lambda stub, left, metadata: stub.SubmitGeneration(request, timeout=left, metadata=metadata),
                None,
                span.metadata,
            )
        return response.generation_id

    def attach(self, generation_id: str, *, after_sequence: int = 0, timeout: float | None = None) -> "AsyncStream":
        """Joins a generation after a sequence. Closing this stream early does not cancel the generation."""
        position = Position(
            requests.generation_id(generation_id),
            requests.after_sequence(after_sequence),
            complete=after_sequence == 0,
        )
        return AsyncStream(self, None, position, self._deadline(timeout), self._metadata)

    async def get(self, generation_id: str) -> generation_pb2.Generation:
        """Returns a generation as far as it got."""
        request = generation_service_pb2.GetGenerationRequest(generation_id=requests.generation_id(generation_id))
        response = await self._call(
            lambda stub, left, metadata: stub.GetGeneration(request, timeout=left, metadata=metadata), None
        )
        return response.generation

    async def cancel(self, generation_id: str) -> generation_pb2.GenerationState.ValueType:
        """Cancels a generation; returns where it stands."""
        request = generation_service_pb2.CancelGenerationRequest(generation_id=requests.generation_id(generation_id))
        response = await self._call(
            lambda stub, left, metadata: stub.CancelGeneration(request, timeout=left, metadata=metadata), None
        )
        return response.state

    async def models(self) -> list[model_service_pb2.Model]:
        """Returns what is served."""
        request = model_service_pb2.ListModelsRequest()

        def call(_: Any, left: float | None, metadata: MetadataPairs) -> Awaitable[model_service_pb2.ListModelsResponse]:
            stub = model_service_pb2_grpc.ModelServiceStub(self._targets.channel())
            return stub.ListModels(request, timeout=left, metadata=metadata)

        return list((await self._call(call, None)).models)

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline.after(self._timeout if timeout is None else timeout)

    def _stub(self) -> Stub:
        return generation_service_pb2_grpc.GenerationServiceStub(self._targets.channel())

    async def _call(self, call: Call[Response], timeout: float | None, traced: MetadataPairs = ()) -> Response:
        """Makes a call, again if it fails for want of a server or of room."""
        deadline = self._deadline(timeout)
        retries = Retries(self._retry, deadline, len(self._targets))
        while True:
            target = self._targets.current
            try:
                return await call(self._stub(), deadline.left(), (*self._metadata, *traced))
            except grpc.aio.AioRpcError as error:
                await asyncio.sleep(retries.delay_after(await self._translate(error, target, deadline)))
                self._targets.move_on_from(target)
            except asyncio.CancelledError:
                if self._targets.closed and not _is_task_cancelled():
                    raise RuntimeError("this client is closed") from None
                raise

    async def _translate(self, error: grpc.aio.AioRpcError, target: str, deadline: Deadline) -> TokenrelayError:
        failure = to_error(error, target, error.initial_metadata(), error.trailing_metadata(), expired=deadline.passed)
        if isinstance(failure, ClosedEarlyError):
            return await asyncio.to_thread(self._prober.explain, failure, target)
        return failure


class AsyncStream(StreamState):
    """A generation's deltas as they come. After a lost connection it goes on by itself, with nothing lost or repeated.

    Closed before its end, it cancels the generation, unless it was attached.
    """

    def __init__(
        self,
        client: AsyncClient,
        request: generation_service_pb2.GenerateStreamRequest | None,
        position: Position,
        deadline: Deadline,
        metadata: MetadataPairs,
    ) -> None:
        super().__init__(request, position, deadline, metadata)
        self._client = client
        self._left = asyncio.Event()
        self._deltas = self._run()

    async def __aenter__(self) -> "AsyncStream":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __aiter__(self) -> AsyncIterator[generation_pb2.Delta]:
        return self._deltas

    async def text(self) -> str:
        """Reads to the end and returns the text of the first choice that is still to come."""
        return "".join([delta.text async for delta in self if delta.index == 0])

    async def close(self) -> None:
        """Leaves; cancels a generation of its own that has not ended."""
        self._leave()
        self._left.set()
        with suppress(RuntimeError):  # another task is reading: it is told by its call, which has been cancelled
            await self._deltas.aclose()
        if self._is_to_be_cancelled():
            with suppress(grpc.aio.AioRpcError):
                request = generation_service_pb2.CancelGenerationRequest(generation_id=self.generation_id)
                stub = self._client._stub()
                await stub.CancelGeneration(request, timeout=CANCEL_SECONDS, metadata=self._metadata)

    async def _run(self) -> AsyncGenerator[generation_pb2.Delta, None]:
        retries = Retries(self._client._retry, self._deadline, len(self._client._targets))
        with self._span:
            while self.finished is None:
                target = self._client._targets.current
                try:
                    async for response in self._open(self._client._stub()):
                        delta = self.position.take(response.event)
                        retries.progressed()
                        if delta is not None:
                            yield delta
                    self.position.check_end()
                except grpc.aio.AioRpcError as error:
                    await self._wait_after(await self._client._translate(error, target, self._deadline), retries, target)
                except UnavailableError as error:
                    await self._wait_after(error, retries, target)
                except asyncio.CancelledError:
                    if self._is_given_up(self._client._targets.closed) and not _is_task_cancelled():
                        raise self._closed_early() from None
                    raise
        self._call = None

    async def _wait_after(self, error: TokenrelayError, retries: Retries, target: str) -> None:
        """Waits before the stream goes on through another gateway; raises the error if it is not to go on."""
        if self._is_given_up(self._client._targets.closed):
            raise self._closed_early() from None
        delay = retries.delay_after(self._named(error))
        # Not a mere sleep: a gateway may have asked for many seconds, and who closes the stream must not wait for them.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._left.wait(), delay)
        self._client._targets.move_on_from(target)


def _is_task_cancelled() -> bool:
    """Tells whether somebody has cancelled this task; gRPC raises CancelledError too where close() has ended the call."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

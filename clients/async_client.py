"""The asynchronous client; the same surface as the synchronous one."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

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
Stub: TypeAlias = "generation_service_pb2_grpc.GenerationServiceAsyncStub"
CANCEL_SECONDS = 5.0  # for the cancel of a stream that is closed early


class AsyncClient:
    """Calls one gateway, and the next one when it fails. To be used from one event loop.

    Args:
        targets: "host:port", several separated by commas, or a sequence of them.
        timeout: seconds for each generation from its call to its end; None for no limit. A call may set its own.
        retry: how the library tries again by itself.
    """

    def __init__(
        self, targets: str | Sequence[str] = DEFAULT_TARGET, *, timeout: float | None = None, retry: RetryPolicy | None = None
    ) -> None:
        self._targets: Targets[grpc.aio.Channel] = Targets(targets, grpc.aio.insecure_channel)
        self._timeout = timeout
        self._retry = retry or RetryPolicy()

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
                lambda stub, left: stub.Generate(request, timeout=left, metadata=span.metadata), timeout
            )
        return response.generation

    def stream(
        self, prompt: Prompt, *, model: str = "", timeout: float | None = None, options: Options | None = None, **sampling: Any
    ) -> "AsyncStream":
        """Generates and returns the answer as it comes; see Client.stream."""
        request = to_stream(prompt, model, options, sampling)
        return AsyncStream(self, request, Position(), self._deadline(timeout))

    async def submit(self, prompt: Prompt, *, model: str = "", options: Options | None = None, **sampling: Any) -> str:
        """Has a generation run by itself; returns its id. See Client.submit."""
        request = to_submit(prompt, model, options, sampling)
        with CallSpan("SubmitGeneration", model) as span:
            response = await self._call(
                lambda stub, left: stub.SubmitGeneration(request, timeout=left, metadata=span.metadata), None
            )
        return response.generation_id

    def attach(self, generation_id: str, *, after_sequence: int = 0, timeout: float | None = None) -> "AsyncStream":
        """Joins a generation after a sequence. Closing this stream early does not cancel the generation."""
        position = Position(generation_id, after_sequence, complete=after_sequence == 0)
        return AsyncStream(self, None, position, self._deadline(timeout))

    async def get(self, generation_id: str) -> generation_pb2.Generation:
        """Returns a generation as far as it got."""
        request = generation_service_pb2.GetGenerationRequest(generation_id=generation_id)
        return (await self._call(lambda stub, left: stub.GetGeneration(request, timeout=left), None)).generation

    async def cancel(self, generation_id: str) -> generation_pb2.GenerationState.ValueType:
        """Cancels a generation; returns where it stands."""
        request = generation_service_pb2.CancelGenerationRequest(generation_id=generation_id)
        return (await self._call(lambda stub, left: stub.CancelGeneration(request, timeout=left), None)).state

    async def models(self) -> list[model_service_pb2.Model]:
        """Returns what is served."""
        request = model_service_pb2.ListModelsRequest()

        def call(_: Any, left: float | None) -> Awaitable[model_service_pb2.ListModelsResponse]:
            return model_service_pb2_grpc.ModelServiceStub(self._targets.channel()).ListModels(request, timeout=left)

        return list((await self._call(call, None)).models)

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline.after(self._timeout if timeout is None else timeout)

    def _stub(self) -> Stub:
        return generation_service_pb2_grpc.GenerationServiceStub(self._targets.channel())

    async def _call(self, call: Callable[[Stub, float | None], Awaitable[Response]], timeout: float | None) -> Response:
        """Makes a call, again if it fails for want of a server."""
        deadline, backoff = self._deadline(timeout), Backoff(self._retry)
        while True:
            target = self._targets.current
            try:
                return await call(self._stub(), deadline.left())
            except grpc.aio.AioRpcError as error:
                await self._recover(_translate(error, target), backoff, target)

    async def _recover(self, error: TokenrelayError, backoff: Backoff, target: str) -> None:
        await asyncio.sleep(backoff.delay_after(error))
        self._targets.move_on_from(target)


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
    ) -> None:
        super().__init__(request, position, deadline)
        self._client = client
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
        with suppress(RuntimeError):  # another task is reading: it is told by its call, which has been cancelled
            await self._deltas.aclose()
        if self._is_to_be_cancelled():
            with suppress(grpc.aio.AioRpcError):
                request = generation_service_pb2.CancelGenerationRequest(generation_id=self.generation_id)
                await self._client._stub().CancelGeneration(request, timeout=CANCEL_SECONDS)

    async def _run(self) -> AsyncGenerator[generation_pb2.Delta, None]:
        backoff = Backoff(self._client._retry)
        with self._span:
            while self.finished is None:
                target = self._client._targets.current
                try:
                    async for response in self._open(self._client._stub()):
                        delta = self.position.take(response.event)
                        backoff.progressed()
                        if delta is not None:
                            yield delta
                    self.position.check_end()
                except grpc.aio.AioRpcError as error:
                    if self._closed:
                        raise self._closed_early() from None
                    await self._client._recover(self._named(_translate(error, target)), backoff, target)
                except UnavailableError as error:
                    await self._client._recover(self._named(error), backoff, target)
                except asyncio.CancelledError:
                    # gRPC raises this too where close() cancels the call; then nobody has cancelled the task that reads.
                    task = asyncio.current_task()
                    if self._closed and task is not None and not task.cancelling():
                        raise self._closed_early() from None
                    raise
        self._call = None


def _translate(error: grpc.aio.AioRpcError, target: str) -> TokenrelayError:
    return to_error(error, target, error.initial_metadata(), error.trailing_metadata())

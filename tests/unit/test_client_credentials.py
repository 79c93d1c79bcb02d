"""Credentials and metadata go with every call: the six of the contract, the list of models, and those that the library adds."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from tokenrelay import errors
from tokenrelay.client import AsyncClient, Client, RetryPolicy
from tokenrelay.client.resumption import digest
from tokenrelay.status import to_status
from tokenrelay.v1 import generation_pb2 as g
from tokenrelay.v1 import generation_service_pb2 as service
from tokenrelay.v1 import generation_service_pb2_grpc, model_service_pb2, model_service_pb2_grpc

KEY: dict[str, str | bytes] = {"x-api-key": "trk_secret", "x-binary-bin": b"\x00\xff"}
HASTY = RetryPolicy(first_delay=0.01, longest_delay=0.01)


class _Recording(generation_service_pb2_grpc.GenerationServiceServicer, model_service_pb2_grpc.ModelServiceServicer):
    """Answers each call and keeps the names of those that had the key. A new stream breaks off after one token."""

    def __init__(self) -> None:
        self.with_key: list[str] = []
        self.without_key: list[str] = []
        self.queue_full_times = 0

    def _record(self, name: str, context: Any) -> None:
        metadata = dict(context.invocation_metadata())
        has_key = all(metadata.get(key) == value for key, value in KEY.items())
        (self.with_key if has_key else self.without_key).append(name)

    async def Generate(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._record("Generate", context)
        if self.queue_full_times:
            self.queue_full_times -= 1
            status = to_status(errors.QueueFullError("the queue is full", retry_after=0.2))
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, status.message)
        return service.GenerateResponse()

    async def GenerateStream(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self._record("GenerateStream", context)
        for event in (_accepted(), _delta(1)):
            yield service.GenerateStreamResponse(event=event)
        await context.abort(grpc.StatusCode.INTERNAL, "the stream was reset")

    async def AttachGeneration(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self._record("AttachGeneration", context)
        for event in (_delta(2), _finished()):
            yield service.AttachGenerationResponse(event=event)

    async def SubmitGeneration(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._record("SubmitGeneration", context)
        return service.SubmitGenerationResponse(generation_id="0-1")

    async def GetGeneration(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._record("GetGeneration", context)
        return service.GetGenerationResponse()

    async def CancelGeneration(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._record("CancelGeneration", context)
        return service.CancelGenerationResponse()

    async def ListModels(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._record("ListModels", context)
        return model_service_pb2.ListModelsResponse()


def _accepted() -> g.GenerationEvent:
    return g.GenerationEvent(accepted=g.Accepted(generation_id="0-1"))


def _delta(sequence: int) -> g.GenerationEvent:
    return g.GenerationEvent(sequence=sequence, delta=g.Delta(text="x", token_ids=[sequence]))


def _finished() -> g.GenerationEvent:
    finished = g.Finished(choices=[g.ChoiceEnd()], digest=digest([[1, 2]]))
    return g.GenerationEvent(sequence=2, finished=finished)


@pytest.fixture
async def recording() -> AsyncIterator[tuple[_Recording, list[str]]]:
    """Two servers that take connections with credentials alone."""
    servicer = _Recording()
    servers, targets = [], []
    for _ in range(2):
        server = grpc.aio.server()
        generation_service_pb2_grpc.add_GenerationServiceServicer_to_server(servicer, server)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(servicer, server)
        targets.append(f"127.0.0.1:{server.add_secure_port('127.0.0.1:0', grpc.local_server_credentials())}")
        await server.start()
        servers.append(server)
    yield servicer, targets
    for server in servers:
        await server.stop(None)


EVERY_CALL = [
    *("Generate", "SubmitGeneration", "GetGeneration", "CancelGeneration", "ListModels", "AttachGeneration"),
    *("GenerateStream", "AttachGeneration", "GenerateStream", "CancelGeneration"),
]


async def test_every_call_of_the_asynchronous_client(recording: tuple[_Recording, list[str]]) -> None:
    servicer, targets = recording
    credentials = grpc.local_channel_credentials()
    async with AsyncClient(targets, credentials=credentials, metadata=list(KEY.items()), retry=HASTY) as client:
        await client.generate("x")
        await client.submit("x")
        await client.get("0-1")
        await client.cancel("0-1")
        await client.models()
        assert await client.attach("0-1", after_sequence=1).text() == "x"
        assert await client.stream("x").text() == "xx"
        async with client.stream("x") as left_early:
            await anext(aiter(left_early))
    assert servicer.with_key == EVERY_CALL
    assert servicer.without_key == []


async def test_every_call_of_the_synchronous_client(recording: tuple[_Recording, list[str]]) -> None:
    servicer, targets = recording

    def use() -> None:
        with Client(targets, credentials=grpc.local_channel_credentials(), metadata=KEY, retry=HASTY) as client:
            client.generate("x")
            client.submit("x")
            client.get("0-1")
            client.cancel("0-1")
            client.models()
            assert client.attach("0-1", after_sequence=1).text() == "x"
            assert client.stream("x").text() == "xx"
            with client.stream("x") as left_early:
                next(iter(left_early))

    await asyncio.to_thread(use)
    assert servicer.with_key == EVERY_CALL
    assert servicer.without_key == []


async def test_a_full_queue_is_asked_again_when_it_says(recording: tuple[_Recording, list[str]]) -> None:
    servicer, targets = recording
    credentials = grpc.local_channel_credentials()
    servicer.queue_full_times = 3
    started = time.monotonic()
    async with AsyncClient(targets, credentials=credentials, metadata=KEY, retry=HASTY) as client:
        await client.generate("x")
        assert servicer.with_key == ["Generate"] * 4
        assert time.monotonic() - started >= 3 * 0.2, "as long as RetryInfo says"
        servicer.queue_full_times = 1000
        impatient = RetryPolicy(first_delay=0.01, give_up_after=0.5)
        async with AsyncClient(targets, credentials=credentials, metadata=KEY, retry=impatient) as other:
            with pytest.raises(errors.QueueFullError):
                await other.generate("x")


async def test_who_closes_a_stream_need_not_wait_as_long_as_a_gateway_asks() -> None:
    waiting, loop = asyncio.Event(), asyncio.get_running_loop()

    def note(_: errors.TokenrelayError, __: float) -> None:
        loop.call_soon_threadsafe(waiting.set)

    retry = RetryPolicy(first_delay=50, longest_delay=50, on_wait=note)
    async with AsyncClient("127.0.0.1:1", retry=retry) as client:
        stream = client.stream("x")
        reading = asyncio.create_task(stream.text())
        await waiting.wait()
        await stream.close()
        with pytest.raises(errors.GenerationCancelledError):
            await asyncio.wait_for(reading, 10)
    waiting.clear()
    with Client("127.0.0.1:1", retry=retry) as synchronous:
        blocking = synchronous.stream("x")
        reading = asyncio.create_task(asyncio.to_thread(blocking.text))
        await waiting.wait()
        blocking.close()
        with pytest.raises(errors.GenerationCancelledError):
            await asyncio.wait_for(reading, 10)

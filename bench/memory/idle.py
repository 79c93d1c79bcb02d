"""Streams that are open and idle: each has been accepted, and all but the first wait for their first token."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle
from typing import Any

import grpc

from bench.systems.tokenrelay import OWN_CONNECTION
from tokenrelay.v1 import generation_pb2, generation_service_pb2, generation_service_pb2_grpc

AT_A_TIME = 50  # calls that wait to be accepted
LONG = 100_000  # tokens


class IdleStreams:
    """A growing number of open streams over a number of connections."""

    def __init__(self, target: str, connections: int) -> None:
        self._channels = [grpc.aio.insecure_channel(target, options=OWN_CONNECTION) for _ in range(connections)]
        self._stubs = cycle(generation_service_pb2_grpc.GenerationServiceStub(channel) for channel in self._channels)
        self._open: list[Any] = []

    async def grow(self, streams: int) -> None:
        """Opens streams until there are so many, and returns once all are accepted.

        Raises:
            grpc.aio.AioRpcError: one is refused.
        """
        turn = asyncio.Semaphore(AT_A_TIME)

        async def open_one() -> None:
            async with turn:
                call: Any = next(self._stubs).GenerateStream(_request())
                assert (await call.read()).event.HasField("accepted"), "every stream begins so"
                self._open.append(call)  # a call that nobody holds is cancelled

        async with asyncio.TaskGroup() as opening:
            for _ in range(streams - len(self._open)):
                opening.create_task(open_one())

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


@asynccontextmanager
async def idle_streams(target: str, connections: int) -> AsyncIterator[IdleStreams]:
    """Gives a client without streams; those that it has opened end afterwards."""
    streams = IdleStreams(target, connections)
    try:
        yield streams
    finally:
        await streams.close()


def _request() -> generation_service_pb2.GenerateStreamRequest:
    parameters = generation_pb2.SamplingParams(temperature=0.0, max_tokens=LONG, ignore_eos=True)
    spec = generation_pb2.GenerationSpec(text="a long answer", sampling_params=parameters)
    return generation_service_pb2.GenerateStreamRequest(spec=spec)

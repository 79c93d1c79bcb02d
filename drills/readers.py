"""Readers of streams, as a process of its own.

`python -m drills.readers TARGET COUNT CHOICES MAX_TOKENS CONNECTIONS NAME` takes words from its input, one a line,
and answers each with a line of JSON:

- `begin`: all calls are made; answered when each is accepted
- `measure`: answered with what came since the last one, and how long readers waited between two deltas
- `stop`: no more is read from now on, though the connections live
- `go`: reading goes on
- `join`: answered when every stream has ended, with what was wrong with any of them
- `leave`: all calls are cancelled, and the process ends; answered with what was wrong up to here
"""

import asyncio
import gc
import json
import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import Any

import grpc

from drills.timings import Durations
from engine_service.engines.simulated.simulation import expected_tokens
from tokenrelay.v1 import generation_pb2 as g
from tokenrelay.v1 import generation_service_pb2 as s
from tokenrelay.v1 import generation_service_pb2_grpc

WINDOW = 16_384  # bytes that a client takes before they are read


class StreamReader:
    """One client of one stream, which knows what must come."""

    def __init__(self, stub: Any, text: str, choices: int, max_tokens: int, may_read: asyncio.Event) -> None:
        params = g.SamplingParams(max_tokens=max_tokens, n=choices, ignore_eos=True, temperature=1.0)
        spec = g.GenerationSpec(text=text, sampling_params=params)
        self.accepted = asyncio.Event()
        self.tokens = 0
        self.waits: list[float] = []
        self.wrong: str | None = None
        self._name = text
        self._may_read = may_read
        self._expected: list[Iterator[int]] = [expected_tokens(spec, index) for index in range(choices)]
        self._call = stub.GenerateStream(s.GenerateStreamRequest(spec=spec))

    async def read(self) -> None:
        """Reads to the end, unless it is cancelled."""
        last = None
        try:
            while True:
                if not self._may_read.is_set():
                    await self._may_read.wait()
                    last = None
                response = await self._call.read()
                if response is grpc.aio.EOF:
                    self.wrong = f"{self._name}: it ended without its end: {await self._call.code()}"
                    return
                now, event = time.monotonic(), response.event
                if event.HasField("accepted"):
                    self.accepted.set()
                elif event.HasField("finished"):
                    self._check_end(event)
                    return
                else:
                    if last is not None:
                        self.waits.append(now - last)
                    last = now
                    self._check(event)
        except grpc.aio.AioRpcError as error:
            self.wrong = f"{self._name}: {error.code().name}: {error.details()}"
        finally:
            self.accepted.set()
            self._call.cancel()

    def _check(self, event: g.GenerationEvent) -> None:
        delta = event.delta
        self.tokens += len(delta.token_ids)
        expected = list(islice(self._expected[delta.index], len(delta.token_ids)))
        if list(delta.token_ids) != expected or event.sequence != self.tokens:
            self.wrong = self.wrong or f"{self._name}: at {event.sequence} other tokens came than should have"

    def _check_end(self, event: g.GenerationEvent) -> None:
        if event.sequence != self.tokens or any(next(left, None) is not None for left in self._expected):
            self.wrong = self.wrong or f"{self._name}: it ended after {self.tokens} tokens, which were not all"


class Readers:
    """All clients of this process."""

    def __init__(self, target: str, count: int, choices: int, max_tokens: int, connections: int, name: str) -> None:
        options = [
            ("grpc.use_local_subchannel_pool", 1),  # else gRPC has one connection for all channels of a process
            # Else a client that reads nothing takes megabytes all the same, and what is unread lies with it alone.
            ("grpc.http2.bdp_probe", 0),
            ("grpc.http2.lookahead_bytes", WINDOW),
        ]
        self._channels = [grpc.aio.insecure_channel(target, options=options) for _ in range(connections)]
        self._stubs: list[Any] = [generation_service_pb2_grpc.GenerationServiceStub(channel) for channel in self._channels]
        self._make = [(self._stubs[number % connections], f"{name} {number}", choices, max_tokens) for number in range(count)]
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._readers: list[StreamReader] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._measured: tuple[float, int] = (0.0, 0)

    async def obey(self, word: str) -> dict[str, Any]:
        """Does what a word says and returns the answer."""
        if word == "begin":
            self._readers = [StreamReader(*make, self._may_read) for make in self._make]
            self._tasks = [asyncio.create_task(reader.read()) for reader in self._readers]
            for reader in self._readers:
                await reader.accepted.wait()
        elif word == "measure":
            return self._measure()
        elif word == "stop":
            self._may_read.clear()
        elif word == "go":
            self._may_read.set()
        elif word == "join":
            await asyncio.gather(*self._tasks)
        elif word == "leave":
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        wrong = [reader.wrong for reader in self._readers if reader.wrong is not None]
        return {"wrong": wrong[:5], "wrong_count": len(wrong), "tokens": sum(reader.tokens for reader in self._readers)}

    def _measure(self) -> dict[str, Any]:
        waits: list[float] = []
        for reader in self._readers:
            waits += reader.waits
            reader.waits = []
        now, tokens = time.monotonic(), sum(reader.tokens for reader in self._readers)
        (began, had), self._measured = self._measured, (now, tokens)
        durations = Durations(tuple(waits))
        return {
            "seconds": now - began,
            "tokens": tokens - had,
            "p50": durations.percentile(0.5),
            "p99": durations.percentile(0.99),
            "worst": durations.percentile(1.0),
        }

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()


async def main(target: str, count: str, choices: str, max_tokens: str, connections: str, name: str) -> None:
    readers = Readers(target, int(count), int(choices), int(max_tokens), int(connections), name)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    gc.freeze()
    try:
        while line := (await lines.readline()).decode().strip():
            print(json.dumps(await readers.obey(line)), flush=True)
            if line == "leave":
                return
    finally:
        await readers.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

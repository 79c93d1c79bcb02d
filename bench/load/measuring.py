"""The measuring loop, the same for all systems: sends requests and notes when something comes back."""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from bench.load.workload import Request, Workload

ENGINE_FIRST_HOPS = ("engine_queue", "prefill")
ENGINE_HOPS = (*ENGINE_FIRST_HOPS, "decode")


@dataclass(slots=True)
class Sample:
    """What one request met with. Instants are seconds of the machine's monotonic clock.

    Attributes:
        due: when it was to be sent; in an open loop it may be sent later, which counts as waiting.
        chunks: one (instant, number of tokens) for everything that arrived with tokens in it.
        refusal: why there was no whole answer; "" if there was.
        hops: milliseconds by hop, of systems that tell.
    """

    due: float
    chunks: list[tuple[float, int]] = field(default_factory=list)
    ended: float = 0.0
    refusal: str = ""
    hops: dict[str, float] = field(default_factory=dict)
    cached_tokens: int = 0

    def add(self, tokens: int) -> None:
        """Notes that tokens have arrived just now."""
        self.chunks.append((time.monotonic(), tokens))

    @property
    def engine_first_ms(self) -> float:
        """The engine's own time from having the request to its first token; 0 of systems that do not tell."""
        return sum(self.hops.get(name, 0.0) for name in ENGINE_FIRST_HOPS)

    @property
    def engine_ms(self) -> float:
        """The same, to its last token."""
        return sum(self.hops.get(name, 0.0) for name in ENGINE_HOPS)

    @property
    def tokens(self) -> int:
        return sum(tokens for _, tokens in self.chunks)


class Refused(Exception):  # noqa: N818  # an answer too, and no fault of this code
    """A request got no whole answer. Its text is a short reason to count by."""


class Target(Protocol):
    """A client of one system."""

    async def run(self, request: Request, sample: Sample) -> None:
        """Sends a request and notes in the sample what comes.

        Raises:
            Refused: there was no whole answer.
        """

    async def close(self) -> None:
        """Closes its connections."""


Progress = Callable[[Sample], None]


async def closed_loop(
    target: Target,
    workload: Workload,
    concurrency: int,
    rounds: int,
    *,
    ramp: float = 0.0,
    first_stream: int = 0,
    progress: Progress | None = None,
) -> list[Sample]:
    """Keeps a number of requests open: each user sends its next one when its last one has ended, `rounds` of them.

    The users begin one after the other, spread evenly over the seconds of the ramp.
    """

    async def user(number: int) -> list[Sample]:
        await asyncio.sleep(ramp * number / concurrency)
        requests = workload.requests(first_stream + number)
        samples = []
        for _ in range(rounds):
            samples.append(await _measure(target, next(requests), time.monotonic()))
            if progress is not None:
                progress(samples[-1])
        return samples

    users = [user(number) for number in range(concurrency)]
    return [sample for samples in await asyncio.gather(*users) for sample in samples]


async def open_loop(
    target: Target, workload: Workload, rate: float, seconds: float, *, first_stream: int = 0, progress: Progress | None = None
) -> list[Sample]:
    """Sends requests at the instants of a Poisson process, whatever has come back; returns when all have ended.

    Args:
        target: whom to ask.
        workload: what to ask for.
        rate: requests a second.
        seconds: for how long to send.
        first_stream: tells this loop's requests from others'.
        progress: called with each sample that has ended.
    """
    requests = workload.requests(first_stream)
    under_way: list[asyncio.Task[Sample]] = []
    started = time.monotonic()
    for due in arrivals(rate, seconds, random.Random(f"{workload.seed}-{first_stream}")):
        await asyncio.sleep(max(0.0, started + due - time.monotonic()))
        task = asyncio.create_task(_measure(target, next(requests), started + due))
        if progress is not None:
            task.add_done_callback(lambda done: progress(done.result()))
        under_way.append(task)
    return list(await asyncio.gather(*under_way))


def arrivals(rate: float, seconds: float, source: random.Random) -> Iterator[float]:
    """Yields the instants of a Poisson process, in seconds from its beginning."""
    at = source.expovariate(rate)
    while at < seconds:
        yield at
        at += source.expovariate(rate)


async def _measure(target: Target, request: Request, due: float) -> Sample:
    sample = Sample(due)
    try:
        await target.run(request, sample)
    except Refused as refused:
        sample.refusal = str(refused)
    sample.ended = time.monotonic()
    if not sample.refusal and sample.tokens != request.output_tokens:
        sample.refusal = f"{sample.tokens} tokens instead of {request.output_tokens}"
    return sample

"""A client process: gets its part of each point over a pipe, begins at an agreed instant, and gives its samples back.

Apart from the process that looks on, so that what a client costs can be told and no table or plot gets in its way. It lives
for all points of a measurement and ends when its pipe does.
"""

import asyncio
import gc
import sys
import time
from collections.abc import Callable

import uvloop

from bench.clients.messages import Ended, Outcome, Part, Ready, pack, receive
from bench.load.measuring import Progress, Sample, Target, closed_loop, open_loop
from bench.load.plan import OfferedLoad
from bench.systems.tokenrelay import TokenrelayTarget

PROGRESS_INTERVAL = 0.5  # seconds


async def offer(target: Target, load: OfferedLoad, progress: Progress | None = None) -> list[Sample]:
    """Offers a load; returns when all requests have ended."""
    if load.is_open:
        return await open_loop(
            target, load.workload, load.rate, load.seconds, first_stream=load.first_stream, progress=progress
        )
    return await closed_loop(
        target,
        load.workload,
        load.concurrency,
        load.rounds,
        ramp=load.ramp,
        first_stream=load.first_stream,
        progress=progress,
    )


async def measure(target: Target, load: OfferedLoad, begin: float, progress: Progress) -> Outcome:
    """Offers a load from an instant on."""
    await asyncio.sleep(begin - time.monotonic())
    before = time.process_time()
    samples = await offer(target, load, progress)
    return Outcome(samples, time.process_time() - before)


class ProgressReport:
    """Tells now and then how many requests have ended."""

    def __init__(self, send: Callable[[object], None]) -> None:
        self._send = send
        self._ended = 0
        self._said = time.monotonic()

    def __call__(self, _: Sample) -> None:
        self._ended += 1
        now = time.monotonic()
        if now - self._said >= PROGRESS_INTERVAL:
            self._send(Ended(self._ended))
            self._ended, self._said = 0, now


def main() -> None:
    """Takes part after part until the pipe ends."""
    incoming, outgoing = sys.stdin.buffer, sys.stdout.buffer

    def send(message: object) -> None:
        outgoing.write(pack(message))
        outgoing.flush()

    target: TokenrelayTarget | None = None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        while (part := receive(incoming)) is not None:
            target = target or runner.run(_connect(part))
            if part.warm_up is not None:
                runner.run(offer(target, part.warm_up))
            gc.collect()
            send(Ready())
            begin = receive(incoming)
            if begin is None:
                break
            send(runner.run(measure(target, part.load, begin, ProgressReport(send))))
        if target is not None:
            runner.run(target.close())


async def _connect(part: Part) -> TokenrelayTarget:
    """Makes the client inside the loop that it is for."""
    return TokenrelayTarget(part.targets, part.connections)


if __name__ == "__main__":
    main()

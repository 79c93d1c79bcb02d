"""Which points a measurement has. Pure."""

from collections.abc import Iterator
from dataclasses import replace

from bench.load.plan import STREAMS_A_POINT, OfferedLoad
from bench.load.workload import Workload
from bench.run.settings import BenchSettings


def planned(settings: BenchSettings, vocabulary_size: int) -> Iterator[OfferedLoad]:
    """Yields the points of a measurement: the sweep, for each length of prompts and of answers."""
    number = 0
    for input_tokens in settings.input_tokens:
        for output_tokens in settings.output_tokens:
            workload = Workload(
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                shared=settings.shared,
                vocabulary_size=vocabulary_size,
                seed=settings.seed,
                text=settings.prompts == "text",
            )
            for load in _sweep(settings, workload):
                yield replace(load, first_stream=number * STREAMS_A_POINT)
                number += 1


def _sweep(settings: BenchSettings, workload: Workload) -> Iterator[OfferedLoad]:
    if settings.rates:
        for rate in settings.rates:
            yield OfferedLoad(workload, rate=rate, seconds=settings.point_seconds)
        return
    for concurrency in settings.concurrency:
        yield OfferedLoad(workload, concurrency=concurrency, rounds=settings.rounds, ramp=settings.ramp_seconds)

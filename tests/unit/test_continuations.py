"""Frames in columns: what generations gave that only go on."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from engine_service.engines import Tokens
from engine_service.frames import Frames
from engine_service.watchdog import Progress
from tokenrelay.engine.v1 import engine_service_pb2 as e
from tokenrelay.metrics import EngineMetrics
from tokenrelay.v1 import generation_pb2 as g

STOP = g.ChoiceEnd(index=0, finish_reason=g.FINISH_REASON_STOP)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def frames(registry: CollectorRegistry) -> Frames:
    frames = Frames(1, EngineMetrics(registry), Progress())
    frames.takes_continuations = True
    return frames


async def take(frames: Frames) -> e.RunSessionResponse:
    frame = await asyncio.wait_for(frames.next(), 60)
    assert frame is not None
    return frame


async def test_what_goes_on_is_in_columns_and_all_else_in_outputs(frames: Frames, registry: CollectorRegistry) -> None:
    frames.add(1, Tokens(0, "a", (1,)))
    frames.add(2, Tokens(0, "b", (2,)))
    frames.add(1, Tokens(0, "c", (3, 4)))
    frames.add(3, Tokens(0, "ends", (5,), STOP))
    frames.add(4, Tokens(1, "another choice", (6,)))
    for index in (0, 1):
        frames.add(5, Tokens(index, "several choices", (7,)))
    frames.add(6, Tokens(0, "with its end", (8,)))
    frames.conclude(6, e.EngineSummary(digest=b"d"))
    frames.conclude(7, e.EngineSummary(digest=b"no more tokens"))
    frame = await take(frames)
    columns = frame.continuations
    assert list(columns.keys) == [2, 1], "newest first"
    assert list(columns.token_counts) == [1, 3]
    assert [g.Delta.FromString(one) for one in columns.deltas] == [
        g.Delta(text="b", token_ids=[2]),
        g.Delta(text="ac", token_ids=[1, 3, 4]),
    ]
    assert [(output.key, output.index, output.token_count) for output in frame.outputs] == [
        (6, 0, 1),
        (5, 0, 1),
        (5, 1, 1),
        (4, 1, 1),
        (3, 0, 1),
        (7, 0, 0),
    ]
    assert [output.WhichOneof("outcome") for output in frame.outputs] == ["summary", None, None, None, None, "summary"]
    assert registry.get_sample_value("tokenrelay_engine_tokens_total") == 9


async def test_a_worker_of_before_gets_outputs_alone(frames: Frames) -> None:
    frames.takes_continuations = False
    frames.add(1, Tokens(0, "a", (1,)))
    frame = await take(frames)
    assert not frame.HasField("continuations")
    assert [(output.key, output.token_count) for output in frame.outputs] == [(1, 1)]

"""How long a path rests."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from engine_service import pace
from engine_service.engines import Tokens
from engine_service.frames import Frames
from engine_service.watchdog import Progress
from tokenrelay.metrics import EngineMetrics


def test_a_lone_stream_s_path_does_not_rest() -> None:
    assert pace.rest(0.004, 1) == 0.0


def test_a_busy_path_rests_as_long_as_it_works_but_never_long() -> None:
    assert pace.rest(0.005, 100) == 0.005
    assert pace.rest(5.0, 100) == pace.LONGEST


def test_in_between_it_rests_for_a_part() -> None:
    assert pace.rest(0.01, pace.MANY // 2) == pytest.approx(0.005)


async def test_after_a_large_frame_the_next_one_is_gathered_and_then_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[int] = []

    def rest(_: float, streams: int) -> float:
        rests.append(streams)
        return 0.01

    monkeypatch.setattr(pace, "rest", rest)
    frames = Frames(1, EngineMetrics(CollectorRegistry()), Progress())
    for key in range(3):
        frames.add(key, Tokens(0, "a", (1,)))
    await asyncio.wait_for(frames.next(), 60)
    frames.acknowledge(1)
    frames.add(0, Tokens(0, "b", (2,)))
    gathering = asyncio.ensure_future(frames.next())
    await asyncio.sleep(0)
    assert not gathering.done()
    frames.add(0, Tokens(0, "c", (3,)))
    frame = await asyncio.wait_for(gathering, 60)
    assert frame is not None
    assert [output.token_count for output in frame.outputs] == [2]
    assert rests == [3]

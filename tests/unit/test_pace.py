"""How long a path rests."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from engine_service import pace
from engine_service.engines import Tokens
from engine_service.frames import Frames
from engine_service.pace import SentFrame
from engine_service.watchdog import Progress
from tokenrelay.metrics import EngineMetrics


def sent(*, gathered: float | None, streams: int = 100, tokens: int) -> SentFrame:
    return SentFrame(number=1, at=50.0, gathered=gathered, streams=streams, tokens=tokens)


def test_a_path_that_keeps_up_with_its_engine_does_not_rest() -> None:
    assert pace.rest(sent(gathered=0.025, tokens=100), 50.02) == 0.0


def test_a_path_that_is_behind_rests_for_as_long_as_it_is() -> None:
    frame = sent(gathered=0.03, tokens=300)  # so that a step takes 10 ms
    assert frame.step == pytest.approx(0.01)
    assert pace.rest(frame, 50.018) == pytest.approx(0.008)
    assert pace.rest(frame, 55.0) == pace.LONGEST


def test_a_rest_does_not_make_a_path_look_as_if_it_were_behind() -> None:
    # 20 ms of rest and 20 of work, in which an engine with steps of 25 ms gave more than one token a stream.
    assert pace.rest(sent(gathered=0.04, tokens=160), 50.02) == 0.0


def test_with_few_streams_it_rests_for_a_part() -> None:
    frame = sent(gathered=0.03, streams=pace.MANY // 2, tokens=3 * pace.MANY // 2)
    assert pace.rest(frame, 50.018) == pytest.approx(0.004)


@pytest.mark.parametrize("frame", [sent(gathered=None, tokens=100), sent(gathered=1.0, streams=1, tokens=0)])
def test_a_frame_that_does_not_tell_how_fast_the_engine_is_is_no_reason(frame: SentFrame) -> None:
    assert pace.rest(frame, 60.0) == 0.0


async def test_after_a_large_frame_the_next_one_is_gathered_and_then_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[int] = []

    def rest(frame: SentFrame, _: float) -> float:
        rests.append(frame.streams)
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

"""Frames: what waits is merged, in order, and leaves when the worker has caught up."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from engine_service.engines import EngineRequest, Tokens
from engine_service.frames import Frames
from engine_service.sink import GenerationOutput
from engine_service.watchdog import Progress
from tokenrelay.client.resumption import digest
from tokenrelay.engine.v1 import engine_service_pb2 as e
from tokenrelay.errors import InvalidRequestError
from tokenrelay.metrics import EngineMetrics
from tokenrelay.v1 import generation_pb2 as g


@pytest.fixture
def frames() -> Frames:
    return Frames(1, EngineMetrics(CollectorRegistry()), Progress())


async def take(frames: Frames) -> e.RunSessionResponse:
    frame = await asyncio.wait_for(frames.next(), 60)
    assert frame is not None
    return frame


def delta(output: e.Output) -> g.Delta:
    return g.Delta.FromString(output.delta)


STOP = g.ChoiceEnd(index=0, finish_reason=g.FINISH_REASON_STOP)


async def test_a_lone_token_leaves_at_once(frames: Frames) -> None:
    frames.add(1, Tokens(0, "a", (7,)))
    frame = await take(frames)
    assert (frame.frame, len(frame.outputs)) == (1, 1)
    assert delta(frame.outputs[0]) == g.Delta(text="a", token_ids=[7])
    assert frame.sent_at_ns > 0


async def test_what_waits_for_the_acknowledgement_is_merged_per_choice(frames: Frames) -> None:
    frames.add(1, Tokens(0, "a", (1,)))
    await take(frames)
    for text, token in (("b", 2), ("c", 3)):
        frames.add(1, Tokens(0, text, (token,)))
        frames.add(2, Tokens(1, text, (token,)))
    waiting = asyncio.create_task(frames.next())
    await asyncio.sleep(0)
    assert not waiting.done(), "the first frame is not in the log yet"
    frames.acknowledge(1)
    frame = await waiting
    assert frame is not None
    assert [(output.key, output.index, output.token_count) for output in frame.outputs] == [(2, 1, 2), (1, 0, 2)], (
        "newest first"
    )
    assert delta(frame.outputs[1]) == g.Delta(text="bc", token_ids=[2, 3])


async def test_an_end_leaves_with_the_last_tokens(frames: Frames) -> None:
    frames.add(1, Tokens(0, "a", (1,), STOP))
    frames.conclude(1, e.EngineSummary(digest=b"d"))
    frame = await take(frames)
    assert [output.WhichOneof("outcome") for output in frame.outputs] == ["summary"]
    assert frame.outputs[0].end == STOP


async def test_an_end_without_tokens_leaves_alone(frames: Frames) -> None:
    output = GenerationOutput(5, EngineRequest("id", g.GenerationSpec()), frames, lambda: None)
    output.fail(InvalidRequestError("wrong"))
    frame = await take(frames)
    assert (frame.outputs[0].key, frame.outputs[0].error.message) == (5, "wrong")


async def test_nothing_comes_of_a_cancelled_generation(frames: Frames) -> None:
    ended = []
    output = GenerationOutput(5, EngineRequest("id", g.GenerationSpec()), frames, lambda: ended.append(5))
    output.emit(Tokens(0, "a", (1,)))
    output.cancel()
    output.emit(Tokens(0, "b", (2,)))
    output.cancel()
    frames.close()
    assert await frames.next() is None
    assert ended == [5]


async def test_a_summary_counts_what_earlier_attempts_emitted(frames: Frames) -> None:
    spec = g.GenerationSpec(sampling_params=g.SamplingParams(n=2))
    emitted = {
        0: e.EmittedChoice(index=0, token_ids=[1, 2], end=STOP),
        1: e.EmittedChoice(index=1, token_ids=[3]),
    }
    output = GenerationOutput(5, EngineRequest("id", spec, emitted), frames, lambda: None)
    output.end_if_complete()
    output.emit(Tokens(1, "x", (4, 5), g.ChoiceEnd(index=1, finish_reason=g.FINISH_REASON_LENGTH)))
    summary = (await take(frames)).outputs[0].summary
    assert summary.usage.completion_tokens == 5
    assert [choice.index for choice in summary.choices] == [0, 1]
    assert summary.digest == digest([[1, 2], [3, 4, 5]])

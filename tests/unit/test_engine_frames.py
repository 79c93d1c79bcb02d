"""What an engine service counts of its frames."""

from prometheus_client import CollectorRegistry

from engine_service.engines import Tokens
from engine_service.frames import Frames
from engine_service.watchdog import Progress
from tokenrelay.metrics import EngineMetrics


async def test_tokens_are_counted_as_their_frames_leave() -> None:
    registry = CollectorRegistry()
    frames = Frames(1, EngineMetrics(registry), Progress())
    for index, ids in ((0, (1, 2)), (1, (3,))):
        frames.add(7, Tokens(index, "x", ids))
    frames.add(8, Tokens(0, "dropped", (4,)))
    frames.drop(8)
    assert registry.get_sample_value("tokenrelay_engine_tokens_total") == 0
    await frames.next()
    assert registry.get_sample_value("tokenrelay_engine_tokens_total") == 3

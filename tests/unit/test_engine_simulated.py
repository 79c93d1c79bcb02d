"""The simulated engine's death: an error in a step ends the service, and no generation waits for ever."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from engine_service.app import EngineApplication, EngineDeadError
from engine_service.engines import EngineRequest, Measured, Tokens
from engine_service.engines.simulated.engine import SimulatedEngine
from engine_service.settings import EngineSettings
from tokenrelay.errors import TokenrelayError
from tokenrelay.v1 import generation_pb2 as g


class Broken:
    """A sink whose fault becomes the step's."""

    def __init__(self) -> None:
        self.measured = Measured()
        self.exact = True

    def emit(self, tokens: Tokens) -> None:
        raise ZeroDivisionError("in a step")

    def fail(self, error: TokenrelayError) -> None:
        raise AssertionError("nobody fails it")


@pytest.fixture
def settings() -> EngineSettings:
    return EngineSettings(engine="simulated", model="test", port=0, simulated_step_ms=0)


@pytest.fixture
async def engine(settings: EngineSettings) -> AsyncIterator[SimulatedEngine]:
    engine = SimulatedEngine(settings)
    await engine.start()
    yield engine
    await engine.close()


async def test_an_error_in_a_step_is_the_engine_s_death(engine: SimulatedEngine) -> None:
    await engine.begin(EngineRequest("id", g.GenerationSpec(text="x")), Broken())
    assert "ZeroDivisionError('in a step')" in await asyncio.wait_for(engine.wait_until_dead(), 60)


async def test_who_no_longer_waits_for_its_death_does_not_cause_it(engine: SimulatedEngine) -> None:
    waiting = asyncio.create_task(engine.wait_until_dead())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await engine.begin(EngineRequest("id", g.GenerationSpec(text="x")), Broken())
    assert "in a step" in await asyncio.wait_for(engine.wait_until_dead(), 60), "it stepped"


async def test_the_service_ends_with_its_engine(settings: EngineSettings) -> None:
    application = EngineApplication(settings)
    try:
        await application.start_up()
        await application._engine.begin(EngineRequest("id", g.GenerationSpec(text="x")), Broken())
        with pytest.raises(EngineDeadError, match="in a step"):
            await asyncio.wait_for(application.run(), 60)
    finally:
        await application.stop()

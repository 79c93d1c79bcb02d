"""Has an engine generate before anybody is told that it serves."""

import asyncio

import structlog

from engine_service.engines import Engine, EngineRequest, Measured, Tokens
from tokenrelay.errors import InvalidRequestError, TokenrelayError
from tokenrelay.v1 import generation_pb2

log = structlog.get_logger(__name__)


async def warm_up(engine: Engine) -> None:
    """Returns when the engine has generated a token, and has built what it builds at first use.

    Raises:
        TokenrelayError: it cannot generate.
    """
    await _generate(engine, "warm-up", _plain())
    for number, spec in enumerate(engine.warm_ups()):
        try:
            await _generate(engine, f"warm-up-{number}", spec)
        except InvalidRequestError as error:  # this model or its arguments do not allow it, so no client will get it either
            log.info("not warmed up", reason=error.message)


def _plain() -> generation_pb2.GenerationSpec:
    params = generation_pb2.SamplingParams(max_tokens=1, temperature=0)
    return generation_pb2.GenerationSpec(token_ids=generation_pb2.TokenIds(ids=[1]), sampling_params=params)


async def _generate(engine: Engine, name: str, spec: generation_pb2.GenerationSpec) -> None:
    sink = _WarmUpSink()
    await engine.begin(EngineRequest(name, spec), sink)
    await sink.done


class _WarmUpSink:
    """Waits for the end of a generation of one choice."""

    def __init__(self) -> None:
        self.measured = Measured()
        self.exact = True
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def emit(self, tokens: Tokens) -> None:
        if tokens.end is not None and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: TokenrelayError) -> None:
        if not self.done.done():
            self.done.set_exception(error)

"""Judges structured output: whether it can be compiled, and whether anything satisfies it. Off the event loop."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog
from vllm import SamplingParams
from vllm.exceptions import VLLMClientError
from vllm.v1.engine.async_llm import AsyncLLM

from engine_service.engines.vllm.errors import refused_structure, unusable_structure
from tokenrelay.errors import InvalidRequestError
from tokenrelay.v1 import generation_pb2

log = structlog.get_logger(__name__)

JUDGES = 2  # threads: a schema that takes seconds must not hold up all others
LONGEST_JUDGEMENT = 30.0  # seconds
NEVER_EMPTY = ("json_schema", "json_object", "choice")
"""The kinds of structured output whose text has a character at least."""


class JudgedParams(SamplingParams):  # type: ignore[misc]  # vLLM is not typed
    """Sampling parameters that Grammars has judged.

    vLLM's add_request would verify them again, on the event loop, and all streams would stand still meanwhile.
    """

    def verify(self, *_: Any) -> None:
        """Does nothing: it was done."""


class Grammars:
    """Judges structured output for one engine."""

    def __init__(self, llm: AsyncLLM) -> None:
        self._llm = llm
        self._threads = ThreadPoolExecutor(JUDGES, thread_name_prefix="grammar")

    async def judge(self, kind: str, asked: generation_pb2.SamplingParams, arguments: dict[str, Any]) -> None:
        """Judges the structured output among a choice's arguments, and has vLLM note there how it is compiled.

        Args:
            kind: the field that asks for it, such as `regex`.
            asked: the request's parameters.
            arguments: of a SamplingParams.

        Raises:
            InvalidRequestError: names the field, and what is wrong as far as the compiler says it.
        """
        judging = asyncio.get_running_loop().run_in_executor(self._threads, self._judge, kind, asked, arguments)
        try:
            # The thread goes on after the time limit, since a compiler cannot be interrupted; nobody waits for it any more.
            await asyncio.wait_for(asyncio.shield(judging), LONGEST_JUDGEMENT)
        except TimeoutError:
            judging.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody asks for it any more
            raise unusable_structure(kind, f"was not compiled within {LONGEST_JUDGEMENT:g} s; make it smaller") from None

    def _judge(self, kind: str, asked: generation_pb2.SamplingParams, arguments: dict[str, Any]) -> None:
        config = self._llm.vllm_config
        params = SamplingParams(**arguments)
        try:
            if kind == "json_schema" and accepts_nothing(json.loads(asked.json_schema)):
                raise unusable_structure(kind, "no JSON value satisfies it")
            params.verify(
                config.model_config, config.speculative_config, config.structured_outputs_config, self._llm.get_tokenizer()
            )
        except (VLLMClientError, ValueError, TypeError, LookupError, RecursionError, RuntimeError) as error:
            # Whatever a compiler raises is about the text that it was given.
            log.debug("structured output is refused", kind=kind, error=type(error).__name__)
            raise refused_structure(kind, error) from error

    def close(self) -> None:
        """Ends the threads; what they still judge is dropped."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def accepts_nothing(schema: Any) -> bool:
    """Tells whether a JSON schema says outright that no value satisfies it.

    The compiler leaves out what it does not know, `not` among others, so it does not find out by itself.
    """
    if not isinstance(schema, dict):
        return schema is False
    if schema.get("not") in ({}, True):
        return True
    if any(schema.get(name) == [] for name in ("enum", "anyOf", "oneOf", "type")):
        return True
    if any(accepts_nothing(one) for one in _parts(schema, "allOf")):
        return True
    return any(parts and all(map(accepts_nothing, parts)) for parts in (_parts(schema, "anyOf"), _parts(schema, "oneOf")))


def _parts(schema: dict[str, Any], name: str) -> list[Any]:
    parts = schema.get(name)
    return parts if isinstance(parts, list) else []


def failure(kind: str) -> InvalidRequestError:
    """Returns the error of structured output that the engine core gave up."""
    return unusable_structure(kind, "the engine cannot follow it: it does not compile, or no token fits after the text so far")


def emptiness(kind: str) -> InvalidRequestError:
    """Returns the error of structured output that ended without any text, though its kind has none that is empty."""
    return unusable_structure(kind, "the engine cannot follow it: no text satisfies it")

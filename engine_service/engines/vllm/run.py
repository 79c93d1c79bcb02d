"""A generation in vLLM: its choices, each an engine request of its own, and their end."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import structlog
from vllm import SamplingParams
from vllm.inputs.engine import tokens_input
from vllm.v1.engine.async_llm import AsyncLLM

from engine_service import continuation
from engine_service.engines import EngineRequest, Sink, Tokens
from engine_service.engines.vllm.grammars import JudgedParams
from engine_service.engines.vllm.receiver import Receiver
from engine_service.engines.vllm.seam import Seam, ends_within_character
from tokenrelay.engine.v1 import engine_service_pb2
from tokenrelay.errors import TokenrelayError
from tokenrelay.v1 import generation_pb2

log = structlog.get_logger(__name__)


@dataclass
class VllmRun:
    """A generation's engine requests.

    Attributes:
        over: whether it was cancelled or has failed; what its requests still give is dropped.
    """

    llm: AsyncLLM
    request: EngineRequest
    sink: Sink
    request_ids: list[str] = field(default_factory=list)
    over: bool = False
    _aborting: set["asyncio.Task[None]"] = field(default_factory=set)

    async def begin_choice(self, index: int, prompt: list[int], arguments: dict[str, Any]) -> None:
        """Begins a choice of which nothing has been emitted; vLLM makes its text, unless the prompt would leak into it."""
        params = _params(arguments)
        tokenizer = self.llm.get_tokenizer()
        if ends_within_character(tokenizer, prompt, skip_special_tokens=params.skip_special_tokens):
            seam = Seam(tokenizer, prompt, params)
            await self._add(index, prompt, _without_text(arguments), seam)
        else:
            await self._add(index, prompt, params, None)

    async def continue_choice(
        self, index: int, prompt: list[int], arguments: dict[str, Any], emitted: engine_service_pb2.EmittedChoice
    ) -> None:
        """Goes on after emitted tokens: they become prompt, and the limits shrink by them."""
        done = list(emitted.token_ids)
        left = min(arguments["max_tokens"], self.llm.model_config.max_model_len - len(prompt)) - len(done)
        seam = Seam(self.llm.get_tokenizer(), prompt, _params(arguments), done, emitted.text_length)
        temperature = arguments.get("temperature", 1.0)
        self.sink.exact = self.sink.exact and continuation.is_exact(self.request.spec.sampling_params, temperature)
        if left <= 0:
            end = generation_pb2.ChoiceEnd(index=index, finish_reason=generation_pb2.FINISH_REASON_LENGTH)
            self.sink.emit(Tokens(index, seam.release(ended=True), (), end))
            return
        rest = {
            **arguments,
            "max_tokens": left,
            "min_tokens": max(0, arguments.get("min_tokens", 0) - len(done)),
            "prompt_logprobs": None,  # they were in the first delta
        }
        await self._add(index, [*prompt, *done], _without_text(rest), seam)

    async def _add(self, index: int, prompt: list[int], params: SamplingParams, seam: Seam | None) -> None:
        name = f"{self.request.generation_id}-{index}"
        # A cancel in the middle of add_request would leave state behind in vLLM, so it is shielded, and the request that
        # it makes is noted, so that the cancel that follows frees it.
        adding = asyncio.ensure_future(self.llm.add_request(name, tokens_input(prompt), params))
        try:
            collector = await asyncio.shield(adding)
        except asyncio.CancelledError:
            self.request_ids.append((await adding).request_id)
            raise
        self.request_ids.append(collector.request_id)
        log.debug("submitted to vLLM", generation_id=self.request.generation_id, index=index, request_id=collector.request_id)
        receiver = Receiver(self, index, collector.request_id, seam)
        # No await between these: what vLLM's output handler puts must go either into the collector or to the receiver.
        early = collector.get_nowait()
        collector.put = receiver.put
        state = self.llm.output_processor.request_states.get(collector.request_id)
        if state is not None:  # it has not ended yet
            receiver.attach(state)
        if early is not None:
            receiver.put(early)

    async def cancel(self) -> None:
        """Frees what vLLM holds for the generation."""
        self.over = True
        await self._abort(self.request_ids)

    def fail(self, error: TokenrelayError) -> None:
        """Ends the generation with an error, and with it the choices that could go on."""
        self.over = True
        self.sink.fail(error)
        self.abort_soon(self.request_ids)

    def abort_soon(self, request_ids: list[str]) -> None:
        """Frees what vLLM holds for some requests; from within its output handler this cannot be awaited."""
        task = asyncio.create_task(self._abort(request_ids))
        self._aborting.add(task)  # the event loop itself keeps no task alive
        task.add_done_callback(self._aborted)

    def _aborted(self, task: "asyncio.Task[None]") -> None:
        self._aborting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("vLLM did not abort requests", generation_id=self.request.generation_id, exc_info=error)

    async def _abort(self, request_ids: list[str]) -> None:
        if request_ids and not self.llm.errored:
            await self.llm.abort(request_ids, internal=True)


def _params(arguments: dict[str, Any]) -> SamplingParams:
    if "structured_outputs" in arguments:
        return JudgedParams(**arguments)
    # Each object is for one request, so that vLLM need not copy all that it refers to. Shapes are shared by choices.
    return SamplingParams(**arguments, skip_clone=True)


def _without_text(arguments: dict[str, Any]) -> SamplingParams:
    """Returns a choice's parameters for vLLM when a seam makes the text, and so finds the stop strings."""
    return _params({**arguments, "detokenize": False, "stop": []})

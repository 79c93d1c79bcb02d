"""Where one choice's outputs arrive from vLLM, and become tokens of ours."""

import time
from typing import Protocol

import structlog
from vllm.outputs import RequestOutput

from engine_service.engines import EngineRequest, Sink, Tokens
from engine_service.engines.vllm import grammars, logprobs
from engine_service.engines.vllm.seam import Seam
from tokenrelay.errors import EngineDiedError, EngineUnavailableError, InternalError, TokenrelayError
from tokenrelay.v1 import generation_pb2

log = structlog.get_logger(__name__)

REASONS = {
    "stop": generation_pb2.FINISH_REASON_STOP,
    "length": generation_pb2.FINISH_REASON_LENGTH,
    "repetition": generation_pb2.FINISH_REASON_REPETITION,
}


class Owner(Protocol):
    """The run that a receiver belongs to."""

    request: EngineRequest
    sink: Sink
    over: bool

    def fail(self, error: TokenrelayError) -> None:
        """Ends the generation with an error."""

    def abort_soon(self, request_ids: list[str]) -> None:
        """Frees what vLLM holds for some requests."""


class Receiver:
    """Takes what AsyncLLM's output handler puts for one choice."""

    def __init__(self, run: Owner, index: int, request_id: str, seam: Seam | None) -> None:
        self._run = run
        self._index = index
        self._request_id = request_id
        self._seam = seam
        self._structure = run.request.spec.sampling_params.WhichOneof("structured_output")
        self._never_empty = self._structure in grammars.NEVER_EMPTY
        self._over = False

    def put(self, output: RequestOutput | Exception) -> None:
        """Takes what one engine step gave. Called by vLLM's output handler, so it must not raise."""
        if self._over or self._run.over:
            return
        if isinstance(output, Exception):
            self._run.fail(EngineDiedError("the engine died; its service restarts", retry_after=5.0))
            return
        finish_reason = output.outputs[0].finish_reason
        if finish_reason is not None and finish_reason not in REASONS:
            self._run.fail(self._failure(finish_reason))
            return
        self._measure(output)
        tokens = self._plain(output) if self._seam is None else self._seamed(output, self._seam)
        self._over = tokens.end is not None
        if self._never_empty:
            if tokens.text:
                self._never_empty = False
            elif finish_reason == "stop" and output.outputs[0].stop_reason is None:
                # Nothing satisfies it: the grammar's only way was to end at once.
                self._run.fail(grammars.emptiness(str(self._structure)))
                return
        if tokens.token_ids or tokens.end is not None:
            self._run.sink.emit(tokens)

    def _failure(self, finish_reason: str) -> TokenrelayError:
        """Returns the error of an end that is no good end: an abort, which we did not ask for, or a fault."""
        generation_id = self._run.request.generation_id
        if finish_reason == "abort":
            log.error("vLLM gave a generation up", generation_id=generation_id, finish_reason=finish_reason)
            return EngineUnavailableError("the engine stops; its service restarts", retry_after=5.0)
        if finish_reason == "error" and self._structure is not None:
            log.info("structured output cannot be followed", generation_id=generation_id, kind=self._structure)
            return grammars.failure(self._structure)
        log.error("vLLM gave a generation up", error_id=generation_id, generation_id=generation_id, finish_reason=finish_reason)
        return InternalError.logged_as(generation_id)

    def _plain(self, output: RequestOutput) -> Tokens:
        completion = output.outputs[0]
        return Tokens(
            self._index,
            completion.text,
            completion.token_ids,
            self._end(completion.finish_reason, completion.stop_reason),
            logprobs.of_tokens(completion.token_ids, completion.logprobs),
            logprobs.of_prompt(output),
        )

    def _seamed(self, output: RequestOutput, seam: Seam) -> Tokens:
        completion = output.outputs[0]
        ids = list(completion.token_ids)
        end = self._end(completion.finish_reason, completion.stop_reason)
        found, left = seam.add(ids, stopped=completion.finish_reason == "stop")
        if found is not None:
            if end is None:
                self._run.abort_soon([self._request_id])
            end = self._end("stop", found)
            ids = ids[:left]
        if completion.logprobs:
            seam.decode(ids, completion.logprobs[: len(ids)])
        if output.prompt_logprobs:
            seam.decode_prompt(output.prompt_token_ids or (), output.prompt_logprobs)
        return Tokens(
            self._index,
            seam.release(ended=end is not None),
            ids,
            end,
            logprobs.of_tokens(ids, completion.logprobs),
            logprobs.of_prompt(output),
        )

    def _end(self, finish_reason: str | None, stop_reason: int | str | None) -> generation_pb2.ChoiceEnd | None:
        if finish_reason is None:
            return None
        end = generation_pb2.ChoiceEnd(index=self._index, finish_reason=REASONS[finish_reason])
        if isinstance(stop_reason, str):
            end.stop_string = stop_reason
        elif stop_reason is not None:
            end.stop_token_id = stop_reason
        return end

    def _measure(self, output: RequestOutput) -> None:
        """Takes over vLLM's instants, which are of the monotonic clock, in seconds. The first choice's count at the start."""
        measured, metrics = self._run.sink.measured, output.metrics
        measured.cached_tokens = output.num_cached_tokens or 0
        if metrics is None or not metrics.first_token_ts:
            return
        if measured.first_token_ns is None:
            measured.queued_ns = round(metrics.queued_ts * 1e9)
            measured.scheduled_ns = round(metrics.scheduled_ts * 1e9)
            measured.first_token_ns = round(metrics.first_token_ts * 1e9)
        measured.last_token_ns = time.monotonic_ns()

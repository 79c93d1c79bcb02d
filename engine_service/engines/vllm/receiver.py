"""Where one choice's outputs arrive from vLLM, and become tokens of ours."""

import time
from typing import Any, Protocol

import structlog
from vllm.outputs import RequestOutput
from vllm.v1.engine.output_processor import RequestState

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
        self._state: RequestState | None = None

    def attach(self, state: RequestState) -> None:
        """Has vLLM's state of this request hand over its tokens before vLLM wraps them up.

        For each token vLLM would build two objects of a dozen fields each, of which we read three. They are built only where
        more is read: at the first token, at the end, and when logprobs are asked for.
        """
        processor = state.logprobs_processor
        if processor.num_logprobs is None and processor.num_prompt_logprobs is None and state.stream_interval == 1:
            self._state, self._build = state, state.make_request_output
            state.make_request_output = self._take

    def _take(self, new_token_ids: list[int], pooling_output: Any, finish_reason: Any, *others: Any, **more: Any) -> None:
        """Stands where vLLM makes an output of what one engine step gave, and returns none, so that none is put.

        The names are vLLM's, which uses them.
        """
        state, run = self._state, self._run
        if state is None or self._over or run.over:
            self._detach()
            return
        measured = run.sink.measured
        if finish_reason is None and new_token_ids and measured.first_token_ns is not None and not self._never_empty:
            measured.last_token_ns = time.monotonic_ns()
            if self._seam is None:
                run.sink.emit(Tokens(self._index, state.detokenizer.get_next_output_text(False, True), new_token_ids))
            else:
                self._emit(self._seamed(self._seam, new_token_ids, None, None))
            return
        output = self._build(new_token_ids, pooling_output, finish_reason, *others, **more)
        if finish_reason is not None:
            self._detach()
        if output is not None:
            self.put(output)

    def _detach(self) -> None:
        """Lets go of vLLM's state: each refers to the other, so that both would stay until garbage is searched for."""
        if self._state is not None:
            del self._state.make_request_output
            del self._build
            self._state = None

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
        tokens = self._plain(output) if self._seam is None else self._plain_seamed(output, self._seam)
        if self._never_empty:
            if tokens.text:
                self._never_empty = False
            elif finish_reason == "stop" and output.outputs[0].stop_reason is None:
                # Nothing satisfies it: the grammar's only way was to end at once.
                self._over = True
                self._run.fail(grammars.emptiness(str(self._structure)))
                return
        self._emit(tokens)

    def _emit(self, tokens: Tokens) -> None:
        self._over = tokens.end is not None
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

    def _plain_seamed(self, output: RequestOutput, seam: Seam) -> Tokens:
        completion = output.outputs[0]
        tokens = self._seamed(seam, list(completion.token_ids), completion.finish_reason, completion.stop_reason)
        if completion.logprobs:
            seam.decode(tokens.token_ids, completion.logprobs[: len(tokens.token_ids)])
            tokens.logprobs = logprobs.of_tokens(tokens.token_ids, completion.logprobs)
        if output.prompt_logprobs:
            seam.decode_prompt(output.prompt_token_ids or (), output.prompt_logprobs)
            tokens.prompt_logprobs = logprobs.of_prompt(output)
        return tokens

    def _seamed(self, seam: Seam, ids: list[int], finish_reason: str | None, stop_reason: int | str | None) -> Tokens:
        end = self._end(finish_reason, stop_reason)
        found, left = seam.add(ids, stopped=finish_reason == "stop")
        if found is not None:
            if end is None:
                self._run.abort_soon([self._request_id])
            end = self._end("stop", found)
            ids = ids[:left]
        return Tokens(self._index, seam.release(ended=end is not None), ids, end)

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

"""The simulated engine: computes no model, but schedules, steps, stops and fails like one. For load and fault drills.

A text prompt that begins with `!crash N` kills the process after N tokens, one with `!hang N` stops all progress.
"""

import asyncio
import os
import re
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from engine_service.engines import EngineRequest, Sink, Tokens, max_tokens
from engine_service.engines.simulated.simulation import END, VOCABULARY_SIZE, Chain, prompt_tokens, token_bytes
from engine_service.incremental_text import TextStream
from engine_service.settings import EngineSettings
from tokenrelay.engine.v1 import engine_service_pb2
from tokenrelay.errors import InvalidRequestError
from tokenrelay.v1 import generation_pb2

log = structlog.get_logger(__name__)

FAULT = re.compile(r"!(crash|hang) (\d+)")
UNSUPPORTED = ("logprobs", "prompt_logprobs", "structured_output")


@dataclass
class _Choice:
    """One choice that is being generated."""

    index: int
    chain: Chain
    text: TextStream
    count: int  # tokens so far, those of earlier attempts included
    limit: int
    params: generation_pb2.SamplingParams
    sink: Sink
    fault: tuple[str, int] | None = None
    prefill_left: float = 0.0  # seconds of simulated prompt work


@dataclass
class _Run:
    """A generation's choices that have not ended."""

    engine: "SimulatedEngine"
    choices: list[_Choice] = field(default_factory=list)

    async def cancel(self) -> None:
        for choice in self.choices:
            self.engine.remove(choice)


class SimulatedEngine:
    """Steps through all running choices, one token each."""

    def __init__(self, settings: EngineSettings) -> None:
        self._settings = settings
        self._running: list[_Choice] = []
        self._queued: deque[_Choice] = deque()
        self._work = asyncio.Event()
        self._stepping: asyncio.Task[None] | None = None

    async def start(self) -> engine_service_pb2.DescribeEngineResponse:
        self._stepping = asyncio.create_task(self._run())
        settings = self._settings
        return engine_service_pb2.DescribeEngineResponse(
            model=settings.served_name,
            engine="simulated",
            engine_version=settings.simulated_version,
            max_model_len=settings.simulated_max_model_len,
            vocabulary_size=VOCABULARY_SIZE,
            fingerprint=f"simulated-{settings.simulated_version}-{'multi-byte' if settings.simulated_multi_byte else 'ascii'}",
            slots=settings.simulated_slots,
        )

    def warm_ups(self) -> Sequence[generation_pb2.GenerationSpec]:
        return ()

    async def begin(self, request: EngineRequest, sink: Sink) -> _Run:
        params, settings = request.spec.sampling_params, self._settings
        for name in UNSUPPORTED:
            if params.HasField(name):  # type: ignore[arg-type]
                raise InvalidRequestError.of_field(f"spec.sampling_params.{name}", "the simulated engine has none")
        prompt = sink.measured.prompt_tokens = prompt_tokens(request.spec)
        limit = max_tokens(prompt, request.spec, settings.simulated_max_model_len, settings.default_max_tokens)
        run = _Run(self)
        for index in range(request.choices):
            choice = self._choice(request, index, limit, sink)
            if choice is not None:
                if sink.measured.queued_ns is None:
                    sink.measured.queued_ns = time.monotonic_ns()
                run.choices.append(choice)
                self._queued.append(choice)
        self._work.set()
        return run

    def _choice(self, request: EngineRequest, index: int, limit: int, sink: Sink) -> _Choice | None:
        """Returns a choice that stands where earlier attempts left it; None if it has ended."""
        params, emitted = request.spec.sampling_params, request.emitted.get(index)
        if emitted is not None and emitted.HasField("end"):
            return None
        chain = Chain(request.spec, index, multi_byte=self._settings.simulated_multi_byte)
        released = emitted.text_length if emitted else 0
        text = TextStream(params.stop, include_stop=params.include_stop_str_in_output, released=released)
        tokens = list(emitted.token_ids) if emitted else []
        for token in tokens:
            chain.move_past(token)
            text.add(token_bytes(token))
        fault = FAULT.match(request.spec.text)
        speed = self._settings.simulated_prefill_tokens_per_second
        return _Choice(
            index=index,
            chain=chain,
            text=text,
            count=len(tokens),
            limit=limit,
            params=params,
            sink=sink,
            fault=(fault[1], int(fault[2])) if fault else None,
            prefill_left=(sink.measured.prompt_tokens + len(tokens)) / speed if speed else 0.0,
        )

    def remove(self, choice: _Choice) -> None:
        """Takes a choice out, wherever it is."""
        for place in (self._running, self._queued):
            if choice in place:
                place.remove(choice)

    async def _run(self) -> None:
        """Steps while there is work, each step as long as the settings say."""
        interval = self._settings.simulated_step_ms / 1000
        next_step = time.monotonic()
        while True:
            if not self._running and not self._queued:
                self._work.clear()
                await self._work.wait()
                next_step = time.monotonic()
            self._schedule()
            next_step = max(next_step + interval, time.monotonic() - interval)
            await asyncio.sleep(max(0.0, next_step - time.monotonic()))
            self._step(interval)

    def _schedule(self) -> None:
        while self._queued and len(self._running) < self._settings.simulated_slots:
            choice = self._queued.popleft()
            if choice.sink.measured.scheduled_ns is None:
                choice.sink.measured.scheduled_ns = time.monotonic_ns()
            self._running.append(choice)

    def _step(self, interval: float) -> None:
        budget = interval or float("inf")
        for choice in list(self._running):
            if choice.prefill_left > 0 and interval:
                # Prompts are computed one after the other, as on a device that is saturated by them.
                spent = min(choice.prefill_left, budget)
                choice.prefill_left -= spent
                budget -= spent
                if choice.prefill_left > 0:
                    continue
            self._advance(choice)

    def _advance(self, choice: _Choice) -> None:
        if choice.fault is not None and choice.count >= choice.fault[1]:
            self._fail(choice.fault[0])
            return
        params = choice.params
        token = choice.chain.next(may_end=not params.ignore_eos and choice.count >= params.min_tokens)
        choice.count += 1
        matched = choice.text.add(token_bytes(token), may_stop=choice.count > params.min_tokens)
        end = self._end(choice, token, matched)
        measured = choice.sink.measured
        measured.last_token_ns = time.monotonic_ns()
        if measured.first_token_ns is None:
            measured.first_token_ns = measured.last_token_ns
        if end is not None:
            self._running.remove(choice)
        choice.sink.emit(Tokens(choice.index, choice.text.release(ended=end is not None), (token,), end))

    @staticmethod
    def _end(choice: _Choice, token: int, matched: str | None) -> generation_pb2.ChoiceEnd | None:
        stop, length = generation_pb2.FINISH_REASON_STOP, generation_pb2.FINISH_REASON_LENGTH
        if matched is not None:
            return generation_pb2.ChoiceEnd(index=choice.index, finish_reason=stop, stop_string=matched)
        if token == END and not choice.params.ignore_eos:
            return generation_pb2.ChoiceEnd(index=choice.index, finish_reason=stop)
        if token in choice.params.stop_token_ids and choice.count > choice.params.min_tokens:
            return generation_pb2.ChoiceEnd(index=choice.index, finish_reason=stop, stop_token_id=token)
        if choice.count >= choice.limit:
            return generation_pb2.ChoiceEnd(index=choice.index, finish_reason=length)
        return None

    def _fail(self, fault: str) -> None:
        if fault == "crash":
            os._exit(70)
        time.sleep(3600)  # a hang: the process is there and does nothing

    async def wait_until_dead(self) -> str:
        assert self._stepping is not None, "it is waited for after start"
        await asyncio.wait([self._stepping])  # which leaves it alone if the wait is cancelled
        error = None if self._stepping.cancelled() else self._stepping.exception()
        log.error("the simulated engine ended", exc_info=error)
        return f"the simulated engine ended: {error!r}"

    async def close(self) -> None:
        if self._stepping is not None:
            self._stepping.cancel()

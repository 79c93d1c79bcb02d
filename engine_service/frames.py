"""Frames: the output of the engine's steps for many generations at once, merged while the worker is behind.

A frame is sent as soon as it has content and fewer than the allowed number of frames are unacknowledged. Until then the
tokens of each choice are merged, so that a busier path sends larger frames; a lone stream waits for nothing. When the
session is behind its engine, the next one is delayed a little; see pace.py.
"""

import asyncio
import time
from collections import deque
from typing import TypeAlias

from google.rpc import status_pb2

from engine_service import pace
from engine_service.deltas import delta, merged
from engine_service.engines import Tokens
from engine_service.watchdog import Progress
from tokenrelay.engine.v1 import engine_service_pb2
from tokenrelay.metrics import EngineMetrics

Outcome: TypeAlias = engine_service_pb2.EngineSummary | status_pb2.Status


class Frames:
    """What a session has to send.

    Attributes:
        takes_continuations: whether the worker reads them; else it gets outputs alone.
    """

    def __init__(self, in_flight: int, metrics: EngineMetrics, progress: Progress) -> None:
        self.takes_continuations = False
        self._in_flight = in_flight
        self._metrics = metrics
        self._progress = progress
        self._waiting: dict[int, dict[int, list[Tokens]]] = {}  # not sent yet, by key and choice
        self._outcomes: dict[int, Outcome] = {}
        self._sent = 0
        self._under_way: deque[pace.SentFrame] = deque()  # unacknowledged
        self._sent_at: float | None = None  # when the newest frame was sent
        self._resting = False
        self._closed = False
        self._wake = asyncio.Event()
        self._acknowledged = asyncio.Event()  # set by each acknowledgement; whoever waits for it clears it

    def add(self, key: int, tokens: Tokens) -> None:
        """Takes new tokens of a generation."""
        self._progress.moved()
        # Runs for every token, so it only keeps them; they are merged once a frame, in _write.
        choices = self._waiting.get(key)
        if choices is None:
            self._waiting[key] = {tokens.index: [tokens]}
        elif tokens.index in choices:
            choices[tokens.index].append(tokens)
        else:
            choices[tokens.index] = [tokens]
        if not self._wake.is_set():
            self._wake.set()

    def conclude(self, key: int, outcome: Outcome) -> None:
        """Takes a generation's end; it leaves together with the last tokens."""
        self._outcomes[key] = outcome
        self._wake.set()

    def drop(self, key: int) -> None:
        """Forgets what waits of a generation."""
        self._waiting.pop(key, None)
        self._outcomes.pop(key, None)
        self._acknowledged.set()

    def acknowledge(self, frame: int) -> None:
        """Notes that the frames up to a number are in the log."""
        # Only the newest acknowledged frame says how busy the path is; a worker may acknowledge several at once.
        rest = 0.0
        while self._under_way and self._under_way[0].number <= frame:
            rest = pace.rest(self._under_way.popleft(), time.monotonic())
        if rest:
            self._resting = True
            asyncio.get_running_loop().call_later(rest, self._go_on)
        else:
            self._wake.set()

        self._acknowledged.set()

    async def wait_until_acknowledged(self) -> None:
        """Returns once nothing waits and all frames that were sent are in the log, or after close."""
        while not self._closed and (self._waiting or self._outcomes or self._under_way):
            self._acknowledged.clear()
            await self._acknowledged.wait()

    def _go_on(self) -> None:
        self._resting = False
        self._wake.set()

    def close(self) -> None:
        """Ends the frames; what waits is dropped."""
        self._closed = True
        self._wake.set()
        self._acknowledged.set()

    async def next(self) -> engine_service_pb2.RunSessionResponse | None:
        """Returns the next frame as soon as there is something in it and it may leave; None after close."""
        while not self._may_leave():
            if self._closed:
                return None
            # Cleared before the wait and after the look, with no await between: a wake-up in between would be lost.
            self._wake.clear()
            await self._wake.wait()
        return self._take()

    def _take(self) -> engine_service_pb2.RunSessionResponse:
        self._sent += 1
        frame = engine_service_pb2.RunSessionResponse(frame=self._sent)
        keys: list[int] = []
        counts: list[int] = []
        deltas: list[bytes] = []
        count = 0
        # Newest first: on all the way from here, a first token is waited for more than any other.
        for key, choices in reversed(self._waiting.items()):
            needs_output = not self.takes_continuations or key in self._outcomes
            if needs_output or len(choices) > 1 or (pieces := choices.get(0)) is None or pieces[-1].end is not None:
                count += self._write(frame, key, choices)
                continue
            tokens = merged(pieces)
            keys.append(key)
            counts.append(len(tokens.token_ids))
            deltas.append(delta(tokens))
        if keys:
            # Whole columns at once: protobuf takes them from a list without Python code for each.
            frame.continuations.keys.extend(keys)
            frame.continuations.token_counts.extend(counts)
            frame.continuations.deltas.extend(deltas)
            count += sum(counts)
        for key in self._outcomes.keys() - self._waiting.keys():
            self._set_outcome(frame.outputs.add(key=key), self._outcomes[key])
        self._waiting = {}
        self._outcomes = {}
        self._metrics.frames.inc()
        self._metrics.tokens.inc(count)
        frame.sent_at_ns = time.monotonic_ns()
        self._note_sent(frame.sent_at_ns / 1e9, len(frame.outputs) + len(keys), count)
        return frame

    def _note_sent(self, at: float, streams: int, tokens: int) -> None:
        gathered = None if self._sent_at is None else at - self._sent_at
        self._sent_at = at
        self._under_way.append(pace.SentFrame(self._sent, at, gathered, streams, tokens))

    def _may_leave(self) -> bool:
        has_some = bool(self._waiting or self._outcomes)
        return has_some and not self._resting and len(self._under_way) < self._in_flight

    def _write(self, frame: engine_service_pb2.RunSessionResponse, key: int, choices: dict[int, list[Tokens]]) -> int:
        """Adds what waits of a generation; returns how many tokens that is."""
        count = 0
        for index, pieces in choices.items():
            tokens = merged(pieces)
            count += len(tokens.token_ids)
            output = frame.outputs.add(key=key, token_count=len(tokens.token_ids), delta=delta(tokens))
            if index:
                output.index = index
            if tokens.end is not None:
                output.end.CopyFrom(tokens.end)
        outcome = self._outcomes.get(key)
        if outcome is not None:
            self._set_outcome(output, outcome)
        return count

    @staticmethod
    def _set_outcome(output: engine_service_pb2.Output, outcome: Outcome) -> None:
        if isinstance(outcome, status_pb2.Status):
            output.error.CopyFrom(outcome)
        else:
            output.summary.CopyFrom(outcome)

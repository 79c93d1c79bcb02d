"""One generation's way out of the engine: its tokens go into frames, its end is summed up."""

import hashlib
import struct
from array import array
from collections.abc import Callable

import structlog

from engine_service.engines import EngineRequest, Measured, Tokens
from engine_service.frames import Frames, Outcome
from tokenrelay.engine.v1 import engine_service_pb2
from tokenrelay.errors import TokenrelayError
from tokenrelay.status import to_status
from tokenrelay.v1 import generation_pb2

log = structlog.get_logger(__name__)


class GenerationOutput:
    """The sink of one generation of a session.

    Args:
        key: the worker's.
        request: what is generated.
        frames: where its tokens go.
        on_end: called once, at its end.

    Attributes:
        measured: what the engine measures; set by it.
        exact: False if going on from earlier attempts may have changed what comes; set by the engine.
        over: whether it has ended.
    """

    def __init__(self, key: int, request: EngineRequest, frames: Frames, on_end: Callable[[], None]) -> None:
        self.measured = Measured()
        self.exact = True
        self.over = False
        self._key = key
        self._generation_id = request.generation_id
        self._has_emitted = False
        self._frames = frames
        self._on_end = on_end
        self._token_ids = [array("I", _emitted(request, index)) for index in range(request.choices)]
        self._ends = {index: emitted.end for index, emitted in request.emitted.items() if emitted.HasField("end")}

    def emit(self, tokens: Tokens) -> None:
        if self.over:
            return
        if not self._has_emitted:
            self._has_emitted = True
            log.debug("first token", generation_id=self._generation_id, index=tokens.index)
        self._token_ids[tokens.index].extend(tokens.token_ids)
        self._frames.add(self._key, tokens)
        if tokens.end is not None:
            self._ends[tokens.index] = tokens.end
            self.end_if_complete()

    def end_if_complete(self) -> None:
        """Ends the generation if all of its choices have ended."""
        if not self.over and len(self._ends) == len(self._token_ids):
            log.debug("generation finished", generation_id=self._generation_id, tokens=sum(map(len, self._token_ids)))
            self._end(self._summary())

    def fail(self, error: TokenrelayError) -> None:
        if not self.over:
            log.debug("generation failed", generation_id=self._generation_id, reason=error.reason, error=error.message)
            self._end(to_status(error))

    def cancel(self) -> None:
        """Ends the generation without a frame for the worker; what waits in the frames is dropped."""
        if not self.over:
            log.debug("generation cancelled", generation_id=self._generation_id)
            self.over = True
            self._frames.drop(self._key)
            self._on_end()

    def _end(self, outcome: Outcome) -> None:
        self.over = True
        self._frames.conclude(self._key, outcome)
        self._on_end()

    def _summary(self) -> engine_service_pb2.EngineSummary:
        measured = self.measured
        return engine_service_pb2.EngineSummary(
            choices=[self._ends[index] for index in sorted(self._ends)],
            usage=generation_pb2.Usage(
                prompt_tokens=measured.prompt_tokens,
                completion_tokens=sum(len(ids) for ids in self._token_ids),
                cached_tokens=measured.cached_tokens,
            ),
            digest=digest(self._token_ids),
            exact=self.exact,
            times=engine_service_pb2.EngineTimes(
                queued_ns=measured.queued_ns or 0,
                scheduled_ns=measured.scheduled_ns or 0,
                first_token_ns=measured.first_token_ns or 0,
                last_token_ns=measured.last_token_ns or 0,
            ),
        )


def _emitted(request: EngineRequest, index: int) -> list[int]:
    emitted = request.emitted.get(index)
    return list(emitted.token_ids) if emitted else []


def digest(choices: "list[array[int]]") -> bytes:
    """Returns what Finished.digest says: SHA-256 over each choice's token count and ids as little-endian uint32."""
    sha = hashlib.sha256()
    for ids in choices:
        sha.update(struct.pack(f"<{len(ids) + 1}I", len(ids), *ids))
    return sha.digest()

"""The seam to what generates: an engine, its requests, and where its tokens go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tokenrelay.engine.v1 import engine_service_pb2
from tokenrelay.errors import InvalidRequestError, TokenrelayError
from tokenrelay.v1 import generation_pb2


@dataclass(frozen=True)
class EngineRequest:
    """One generation to start or to continue.

    Attributes:
        emitted: what earlier attempts have emitted, by index.
    """

    generation_id: str
    spec: generation_pb2.GenerationSpec
    emitted: Mapping[int, engine_service_pb2.EmittedChoice] = field(default_factory=dict)

    @property
    def choices(self) -> int:
        """How many choices are asked for."""
        params = self.spec.sampling_params
        return params.n if params.HasField("n") else 1


@dataclass(slots=True)
class Tokens:
    """New tokens of one choice.

    Attributes:
        text: what they complete.
        end: how the choice ended, if it did with these.
    """

    index: int
    text: str
    token_ids: Sequence[int]
    end: generation_pb2.ChoiceEnd | None = None
    logprobs: Sequence[generation_pb2.TokenLogprobs] = ()
    prompt_logprobs: Sequence[generation_pb2.TokenLogprobs] = ()


@dataclass
class Measured:
    """What an engine measured of a generation; instants in nanoseconds of the monotonic clock, None until they come."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    queued_ns: int | None = None
    scheduled_ns: int | None = None
    first_token_ns: int | None = None
    last_token_ns: int | None = None


class Sink(Protocol):
    """Where a generation's tokens go. Called on the event loop; never blocks."""

    measured: Measured
    exact: bool

    def emit(self, tokens: Tokens) -> None:
        """Takes new tokens. With the last choice's end, the generation has ended."""

    def fail(self, error: TokenrelayError) -> None:
        """Ends the generation with an error."""


class Run(Protocol):
    """A generation that an engine works on."""

    async def cancel(self) -> None:
        """Frees what the engine holds for it. Nothing is emitted afterwards. Harmless when it has ended."""


class Engine(Protocol):
    """What generates."""

    async def start(self) -> engine_service_pb2.DescribeEngineResponse:
        """Loads the model and describes it."""

    def warm_ups(self) -> Sequence[generation_pb2.GenerationSpec]:
        """Returns requests that make the engine build what it builds at first use, so that no client waits for it."""

    async def begin(self, request: EngineRequest, sink: Sink) -> Run:
        """Begins a generation.

        Raises:
            InvalidRequestError: the engine, which alone can tokenize, finds the request wrong.
            GenerationAbortedError: it cannot be continued faithfully.
            EngineUnavailableError: the engine is dead.
        """

    async def wait_until_dead(self) -> str:
        """Returns, when the engine is dead for good, what happened."""

    async def close(self) -> None:
        """Ends everything."""


def max_tokens(prompt_tokens: int, spec: generation_pb2.GenerationSpec, context: int, default: int) -> int:
    """Returns how many tokens a choice may have: what is asked for, or else what the context leaves, capped.

    Raises:
        InvalidRequestError: prompt and answer do not fit into the context.
    """
    check_context(prompt_tokens, spec, context)
    params = spec.sampling_params
    return params.max_tokens if params.HasField("max_tokens") else min(default, context - prompt_tokens)


def check_context(prompt_tokens: int, spec: generation_pb2.GenerationSpec, context: int, remark: str = "") -> None:
    """Judges a prompt's length against the context.

    Args:
        prompt_tokens: how many it has.
        spec: says which kind of prompt it is, and how many tokens are to follow it.
        context: how many tokens prompt and answer may have together.
        remark: ends the error's text.

    Raises:
        InvalidRequestError: prompt and answer do not fit.
    """
    params = spec.sampling_params
    wanted = params.max_tokens if params.HasField("max_tokens") else 1
    if prompt_tokens + wanted > context:
        raise InvalidRequestError.of_field(
            f"spec.{spec.WhichOneof('prompt')}",
            f"{prompt_tokens} prompt tokens and {wanted} to generate are more than the context of {context}{remark}",
        )

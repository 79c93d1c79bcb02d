"""Plain Python values as the contract's requests; pure."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from google.protobuf import duration_pb2

from tokenrelay.v1 import generation_pb2, generation_service_pb2

Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]
"""Text, token ids, or chat messages as {"role": ..., "content": ...}."""

Request = TypeVar(
    "Request",
    generation_service_pb2.GenerateRequest,
    generation_service_pb2.GenerateStreamRequest,
    generation_service_pb2.SubmitGenerationRequest,
)


@dataclass(frozen=True)
class Options:
    """What a request says beside what is to be generated.

    Attributes:
        idempotency_key: unset: a random one, so that the library's own retries join what is there already.
        queue_timeout: seconds to wait for a worker.
        time_limit: seconds until the end.
        on_disconnect: what happens when the last reader is gone.
    """

    idempotency_key: str | None = None
    queue_timeout: float | None = None
    time_limit: float | None = None
    on_disconnect: generation_pb2.DisconnectPolicy.ValueType | None = None


def to_generate(
    prompt: Prompt, model: str, options: Options | None, sampling: Mapping[str, Any]
) -> generation_service_pb2.GenerateRequest:
    """Returns a request for a whole answer."""
    return _build(generation_service_pb2.GenerateRequest, prompt, model, options, sampling)


def to_stream(
    prompt: Prompt, model: str, options: Options | None, sampling: Mapping[str, Any]
) -> generation_service_pb2.GenerateStreamRequest:
    """Returns a request for an answer as it comes."""
    return _build(generation_service_pb2.GenerateStreamRequest, prompt, model, options, sampling)


def to_submit(
    prompt: Prompt, model: str, options: Options | None, sampling: Mapping[str, Any]
) -> generation_service_pb2.SubmitGenerationRequest:
    """Returns a request for a generation that runs by itself."""
    return _build(generation_service_pb2.SubmitGenerationRequest, prompt, model, options, sampling)


def _build(kind: type[Request], prompt: Prompt, model: str, options: Options | None, sampling: Mapping[str, Any]) -> Request:
    """Raises TypeError if the prompt or a sampling parameter is of no type that the contract has."""
    options = options or Options()
    detached = kind is generation_service_pb2.SubmitGenerationRequest
    # A lost connection is not the user's wish: the generation waits a while for this client to come back.
    default = generation_pb2.DISCONNECT_POLICY_DETACH if detached else generation_pb2.DISCONNECT_POLICY_CANCEL_AFTER_GRACE
    request = kind(
        spec=spec(prompt, model, sampling),
        idempotency_key=options.idempotency_key or uuid.uuid4().hex,
        on_disconnect=default if options.on_disconnect is None else options.on_disconnect,
    )
    if options.queue_timeout is not None:
        request.queue_timeout.CopyFrom(_duration(options.queue_timeout))
    if options.time_limit is not None:
        request.time_limit.CopyFrom(_duration(options.time_limit))
    return request


def spec(prompt: Prompt, model: str, sampling: Mapping[str, Any]) -> generation_pb2.GenerationSpec:
    """Returns what is to be generated; sampling parameters that are None count as unset."""
    built = generation_pb2.GenerationSpec(model=model)
    if isinstance(prompt, str):
        built.text = prompt
    elif prompt and isinstance(prompt[0], Mapping):
        built.chat.SetInParent()
        for message in prompt:
            assert isinstance(message, Mapping)
            built.chat.messages.add(role=message["role"], content=message["content"])
    else:
        built.token_ids.ids.extend(prompt)  # type: ignore[arg-type]
    given = {name: value for name, value in sampling.items() if value is not None}
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]
    if isinstance(given.get("choice"), list | tuple):
        given["choice"] = generation_pb2.Choices(texts=given["choice"])
    try:
        built.sampling_params.CopyFrom(generation_pb2.SamplingParams(**given))
    except ValueError as error:
        raise TypeError(f"sampling parameters: {error}") from error
    return built


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration

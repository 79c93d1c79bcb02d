"""What makes a request wrong: the one place where requests are judged. Pure functions, all problems at once.

Only the engine can judge what needs the tokenizer (a text prompt's length in tokens) or its grammar compiler (a regular
expression, a schema's meaning); such a generation is accepted and ends FAILED with INVALID_ARGUMENT.

Every list, map and text is bounded, and is counted before it is walked through: this runs on the event loop that writes
all streams, so that a hostile request must cost no more than its parsing.
"""

from collections.abc import Iterable, Iterator
from itertools import chain, islice

from google.protobuf import duration_pb2

from gateway.core import bounds, sampling_rules
from gateway.core.bounds import Limits
from tokenrelay.errors import FieldViolation, InvalidRequestError
from tokenrelay.v1 import generation_pb2, generation_service_pb2, model_service_pb2

GenerationRequest = (
    generation_service_pb2.GenerateRequest
    | generation_service_pb2.GenerateStreamRequest
    | generation_service_pb2.SubmitGenerationRequest
)

ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_VIOLATIONS = 16  # told in one error


def check(request: GenerationRequest, model: model_service_pb2.Model, limits: Limits) -> None:
    """Judges a request for a model.

    Raises:
        InvalidRequestError: names every wrong field and its limit, up to a number of them.
    """
    raise_if_any(
        chain(
            _options(request, limits),
            _prompt(request.spec, model, limits),
            sampling_rules.violations(request.spec.sampling_params, model, limits),
            _lengths(request.spec, model),
        )
    )


def raise_if_any(found: Iterable[FieldViolation]) -> None:
    """Raises the error of all violations together, if there are any."""
    violations = list(islice(found, MAX_VIOLATIONS))
    if violations:
        text = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        raise InvalidRequestError(text, violations=violations)


def _options(request: GenerationRequest, limits: Limits) -> Iterator[FieldViolation]:
    if len(request.idempotency_key) > bounds.MAX_KEY_LENGTH:
        yield FieldViolation(
            "idempotency_key", f"has {len(request.idempotency_key)} characters; at most {bounds.MAX_KEY_LENGTH}"
        )
    for name in ("queue_timeout", "time_limit"):
        if request.HasField(name):
            yield from _duration(name, getattr(request, name), limits.max_time_seconds)
    if request.on_disconnect not in generation_pb2.DisconnectPolicy.values():
        yield FieldViolation("on_disconnect", f"{request.on_disconnect} is not a DisconnectPolicy")
    elif isinstance(request, generation_service_pb2.SubmitGenerationRequest) and request.on_disconnect not in (
        generation_pb2.DISCONNECT_POLICY_UNSPECIFIED,
        generation_pb2.DISCONNECT_POLICY_DETACH,
    ):
        yield FieldViolation("on_disconnect", "must be unset or DETACH here, since a submitted generation has no reader")


def _duration(name: str, duration: duration_pb2.Duration, longest: float) -> Iterator[FieldViolation]:
    total = duration.seconds + duration.nanos / 1e9
    if not 0.001 <= total <= longest or abs(duration.nanos) > 999_999_999:
        sent = bounds.seconds(duration.seconds, duration.nanos)
        yield FieldViolation(name, f"is {sent} s; must be from 0.001 to {longest:.15g} s")


def _prompt(spec: generation_pb2.GenerationSpec, model: model_service_pb2.Model, limits: Limits) -> Iterator[FieldViolation]:
    kind = spec.WhichOneof("prompt")
    most_characters = model.max_model_len * limits.longest_token_characters
    if kind is None:
        yield FieldViolation("spec.prompt", "one of text, token_ids and chat is required")
    elif kind == "text":
        if not spec.text:
            yield FieldViolation("spec.text", "is empty")
        yield from _too_long("spec.text", len(spec.text), most_characters, model)
    elif kind == "token_ids":
        if not spec.token_ids.ids:
            yield FieldViolation("spec.token_ids.ids", "is empty")
        elif len(spec.token_ids.ids) < model.max_model_len:  # the others are too long anyway, see _lengths
            yield from bounds.vocabulary("spec.token_ids.ids", spec.token_ids.ids, model.vocabulary_size)
    else:
        yield from _chat(spec.chat, model, most_characters)


def _chat(chat: generation_pb2.Chat, model: model_service_pb2.Model, most_characters: int) -> Iterator[FieldViolation]:
    if len(chat.messages) > bounds.MAX_MESSAGES:
        yield from bounds.too_many("spec.chat.messages", chat.messages, "messages", bounds.MAX_MESSAGES)
        return
    characters = sum(len(message.content) for message in chat.messages)
    if not characters:
        yield FieldViolation("spec.chat.messages", "is empty" if not chat.messages else "no message has any content")
    yield from _too_long("spec.chat.messages", characters, most_characters, model)
    for position, message in enumerate(chat.messages):
        if message.role not in ROLES:
            field, role = f"spec.chat.messages[{position}].role", message.role[: bounds.MAX_ROLE_SHOWN]
            yield FieldViolation(field, f"{role!r} is unknown; one of {', '.join(ROLES)}")


def _too_long(field: str, characters: int, most: int, model: model_service_pb2.Model) -> Iterator[FieldViolation]:
    """Refuses what cannot fit into the context whatever the tokenizer makes of it, before anyone tokenizes it."""
    if characters > most:
        yield FieldViolation(
            field, f"has {characters} characters; at most {most}, because the context has {model.max_model_len} tokens"
        )


def _lengths(spec: generation_pb2.GenerationSpec, model: model_service_pb2.Model) -> Iterator[FieldViolation]:
    """Judges a prompt of token ids, the only one whose length is known here, against the context."""
    if spec.WhichOneof("prompt") != "token_ids":
        return
    prompt, params = len(spec.token_ids.ids), spec.sampling_params
    wanted = params.max_tokens if params.HasField("max_tokens") and params.max_tokens > 0 else 1
    if prompt + wanted > model.max_model_len:
        yield FieldViolation(
            "spec.token_ids.ids",
            f"{prompt} prompt tokens and {wanted} to generate are more than the context of {model.max_model_len}",
        )

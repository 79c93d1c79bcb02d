"""What makes a request wrong: the one place where requests are judged. Pure functions, all problems at once.

Only the engine can judge what needs the tokenizer (a text prompt's length) or its grammar compiler (a regular
expression, a schema's meaning); such a generation is accepted and ends FAILED with INVALID_ARGUMENT.
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice

from google.protobuf import duration_pb2

from tokenrelay.errors import FieldViolation, InvalidRequestError
from tokenrelay.v1 import generation_pb2, generation_service_pb2, model_service_pb2

GenerationRequest = (
    generation_service_pb2.GenerateRequest
    | generation_service_pb2.GenerateStreamRequest
    | generation_service_pb2.SubmitGenerationRequest
)

ROLES = ("system", "developer", "user", "assistant", "tool")
MAX_KEY_LENGTH = 256  # characters of an idempotency key
MAX_STOP_STRINGS = 64
MAX_STOP_LENGTH = 1024  # characters
MAX_VIOLATIONS = 16  # told in one error; a status travels in metadata, which gRPC limits to some kilobytes


@dataclass(frozen=True)
class Limits:
    """What this server allows, beside what the model does."""

    max_choices: int
    max_time_seconds: float


def check(request: GenerationRequest, model: model_service_pb2.Model, limits: Limits) -> None:
    """Judges a request for a model.

    Raises:
        InvalidRequestError: names every wrong field and its limit, up to a number of them.
    """
    raise_if_any(
        chain(
            _options(request, limits),
            _prompt(request.spec, model),
            _sampling("spec.sampling_params", request.spec.sampling_params, model, limits),
            _lengths(request.spec, model),
        )
    )


def raise_if_any(found: Iterable[FieldViolation]) -> None:
    """Raises the error of all violations together, if there are any."""
    violations = list(islice(found, MAX_VIOLATIONS))
    if violations:
        text = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        raise InvalidRequestError(text, violations=violations)


def check_presence(request: GenerationRequest) -> None:
    """Judges what must be right before a model is looked up."""
    if not request.HasField("spec"):
        raise InvalidRequestError.of_field("spec", "is required")


def _options(request: GenerationRequest, limits: Limits) -> Iterator[FieldViolation]:
    if len(request.idempotency_key) > MAX_KEY_LENGTH:
        yield FieldViolation("idempotency_key", f"has {len(request.idempotency_key)} characters; at most {MAX_KEY_LENGTH}")
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
    seconds = duration.seconds + duration.nanos / 1e9
    if not 0.001 <= seconds <= longest or abs(duration.nanos) > 999_999_999:
        yield FieldViolation(name, f"is {seconds:g} s; must be from 0.001 to {longest:g} s")


def _prompt(spec: generation_pb2.GenerationSpec, model: model_service_pb2.Model) -> Iterator[FieldViolation]:
    kind = spec.WhichOneof("prompt")
    if kind is None:
        yield FieldViolation("spec.prompt", "one of text, token_ids and chat is required")
    elif kind == "text":
        if not spec.text:
            yield FieldViolation("spec.text", "is empty")
    elif kind == "token_ids":
        if not spec.token_ids.ids:
            yield FieldViolation("spec.token_ids.ids", "is empty")
        elif len(spec.token_ids.ids) < model.max_model_len:  # the others are too long anyway, see _lengths
            yield from _vocabulary("spec.token_ids.ids", spec.token_ids.ids, model)
    else:
        yield from _chat(spec.chat)


def _chat(chat: generation_pb2.Chat) -> Iterator[FieldViolation]:
    if not any(message.content for message in chat.messages):
        yield FieldViolation("spec.chat.messages", "is empty" if not chat.messages else "no message has any content")
    for position, message in enumerate(chat.messages):
        if message.role not in ROLES:
            field = f"spec.chat.messages[{position}].role"
            yield FieldViolation(field, f"{message.role[:64]!r} is unknown; one of {', '.join(ROLES)}")


def _vocabulary(field: str, ids: Iterable[int], model: model_service_pb2.Model) -> Iterator[FieldViolation]:
    for position, token in enumerate(ids):
        if not 0 <= token < model.vocabulary_size:
            yield FieldViolation(
                f"{field}[{position}]", f"{token} is not in the vocabulary; from 0 to {model.vocabulary_size - 1}"
            )
            return


def _sampling(
    path: str, params: generation_pb2.SamplingParams, model: model_service_pb2.Model, limits: Limits
) -> Iterator[FieldViolation]:
    for name, low, high, low_open in (
        ("temperature", 0.0, 2.0, False),
        ("top_p", 0.0, 1.0, True),
        ("min_p", 0.0, 1.0, False),
        ("presence_penalty", -2.0, 2.0, False),
        ("frequency_penalty", -2.0, 2.0, False),
        ("repetition_penalty", 0.0, math.inf, True),
    ):
        if params.HasField(name):  # type: ignore[arg-type]
            yield from _number(f"{path}.{name}", getattr(params, name), low, high, low_open=low_open)
    for name, least, most in (
        ("top_k", -1, None),
        ("n", 1, limits.max_choices),
        ("max_tokens", 1, model.max_model_len - 1),
        ("min_tokens", 0, model.max_model_len - 1),
        ("logprobs", -1, None),
        ("prompt_logprobs", -1, None),
        ("thinking_token_budget", -1, None),
    ):
        if params.HasField(name):  # type: ignore[arg-type]
            yield from _whole_number(f"{path}.{name}", getattr(params, name), least, most)
    yield from _token_lists(path, params, model)
    yield from _strings(path, params)
    yield from _structured_output(path, params)
    yield from _contradictions(path, params)


def _number(field: str, value: float, low: float, high: float, *, low_open: bool) -> Iterator[FieldViolation]:
    if not math.isfinite(value) or value < low or value > high or (low_open and value == low):
        bounds = f"above {low:g}" if low_open else f"from {low:g}"
        upper = f" to {high:g}" if math.isfinite(high) else ", and finite"
        yield FieldViolation(field, f"is {value:g}; must be {bounds}{upper}")


def _whole_number(field: str, value: int, least: int, most: int | None) -> Iterator[FieldViolation]:
    if value < least or (most is not None and value > most):
        upper = "" if most is None else f" and at most {most}"
        yield FieldViolation(field, f"is {value}; must be at least {least}{upper}")


def _token_lists(path: str, params: generation_pb2.SamplingParams, model: model_service_pb2.Model) -> Iterator[FieldViolation]:
    for name in ("stop_token_ids", "allowed_token_ids", "logprob_token_ids"):
        yield from _vocabulary(f"{path}.{name}", getattr(params, name), model)
    yield from _vocabulary(f"{path}.logit_bias", params.logit_bias, model)
    for token, bias in params.logit_bias.items():
        if not math.isfinite(bias):
            yield FieldViolation(f"{path}.logit_bias[{token}]", f"is {bias:g}; must be finite")


def _strings(path: str, params: generation_pb2.SamplingParams) -> Iterator[FieldViolation]:
    if len(params.stop) > MAX_STOP_STRINGS:
        yield FieldViolation(f"{path}.stop", f"has {len(params.stop)} strings; at most {MAX_STOP_STRINGS}")
    for position, text in enumerate(params.stop):
        if not 1 <= len(text) <= MAX_STOP_LENGTH:
            yield FieldViolation(f"{path}.stop[{position}]", f"has {len(text)} characters; from 1 to {MAX_STOP_LENGTH}")
    for position, word in enumerate(params.bad_words):
        if not word:
            yield FieldViolation(f"{path}.bad_words[{position}]", "is empty")


def _structured_output(path: str, params: generation_pb2.SamplingParams) -> Iterator[FieldViolation]:
    kind = params.WhichOneof("structured_output")
    if kind is None:
        for name in ("disable_any_whitespace", "disable_additional_properties", "whitespace_pattern"):
            if params.HasField(name):
                yield FieldViolation(f"{path}.{name}", "is about structured output, but none is asked for")
        return
    field = f"{path}.{kind}"
    if kind in ("json_schema", "structural_tag"):
        try:
            schema = json.loads(getattr(params, kind))
        except (ValueError, RecursionError) as error:
            place = f" at line {error.lineno} column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            yield FieldViolation(field, f"is not valid JSON{place}")
        else:
            if not isinstance(schema, dict):
                yield FieldViolation(field, "must be a JSON object")
    elif kind == "choice":
        if not params.choice.texts or not all(params.choice.texts):
            yield FieldViolation(f"{field}.texts", "needs at least one text, and none may be empty")
    elif not getattr(params, kind):
        yield FieldViolation(field, "must be true or unset" if kind == "json_object" else "is empty")


def _contradictions(path: str, params: generation_pb2.SamplingParams) -> Iterator[FieldViolation]:
    if params.HasField("min_tokens") and params.HasField("max_tokens") and params.min_tokens > params.max_tokens:
        yield FieldViolation(
            f"{path}.min_tokens", f"is {params.min_tokens}, more than max_tokens, which is {params.max_tokens}"
        )
    if params.HasField("temperature") and params.temperature == 0 and params.n > 1:
        yield FieldViolation(f"{path}.n", f"is {params.n}; must be 1 when temperature is 0, since all choices would be equal")
    if params.HasField("repetition_detection"):
        detection = params.repetition_detection
        if not 0 <= detection.min_pattern_size <= detection.max_pattern_size or detection.min_count < 2:
            yield FieldViolation(
                f"{path}.repetition_detection",
                "needs 0 <= min_pattern_size <= max_pattern_size, and min_count of at least 2",
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

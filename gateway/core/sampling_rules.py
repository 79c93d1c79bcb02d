"""What makes sampling parameters wrong. Pure functions over GenerationSpec.sampling_params."""

import json
import math
from collections.abc import Iterator, Sequence

from gateway.core import bounds
from gateway.core.bounds import Limits
from tokenrelay.errors import FieldViolation
from tokenrelay.v1 import generation_pb2, model_service_pb2

PATH = "spec.sampling_params"
ONLY_WITH_STRUCTURE = ("disable_any_whitespace", "disable_additional_properties", "whitespace_pattern")


def violations(
    params: generation_pb2.SamplingParams, model: model_service_pb2.Model, limits: Limits
) -> Iterator[FieldViolation]:
    """Yields what is wrong with sampling parameters for a model."""
    yield from _numbers(params)
    yield from _whole_numbers(params, model, limits)
    yield from _token_lists(params, model)
    yield from _strings(params)
    yield from _structured_output(params, limits)
    yield from _contradictions(params)
    yield from _repetition(params, model)


def _numbers(params: generation_pb2.SamplingParams) -> Iterator[FieldViolation]:
    for name, low, high, low_open in (
        ("temperature", 0.0, 2.0, False),
        ("top_p", 0.0, 1.0, True),
        ("min_p", 0.0, 1.0, False),
        ("presence_penalty", -2.0, 2.0, False),
        ("frequency_penalty", -2.0, 2.0, False),
        ("repetition_penalty", 0.0, math.inf, True),
    ):
        if params.HasField(name):  # type: ignore[arg-type]
            yield from bounds.number(f"{PATH}.{name}", getattr(params, name), low, high, low_open=low_open)


def _whole_numbers(
    params: generation_pb2.SamplingParams, model: model_service_pb2.Model, limits: Limits
) -> Iterator[FieldViolation]:
    for name, least, most in (
        ("top_k", -1, None),
        ("n", 1, limits.max_choices),
        ("max_tokens", 1, model.max_model_len - 1),
        ("min_tokens", 0, model.max_model_len - 1),
        # An engine may allow fewer; there are never more than the vocabulary has.
        ("logprobs", -1, model.vocabulary_size),
        ("prompt_logprobs", -1, model.vocabulary_size),
        ("thinking_token_budget", -1, None),
    ):
        if params.HasField(name):  # type: ignore[arg-type]
            yield from bounds.whole_number(f"{PATH}.{name}", getattr(params, name), least, most)


def _token_lists(params: generation_pb2.SamplingParams, model: model_service_pb2.Model) -> Iterator[FieldViolation]:
    for name, most in (
        ("stop_token_ids", bounds.MAX_STOP_TOKENS),
        ("allowed_token_ids", model.vocabulary_size),
        ("logprob_token_ids", bounds.MAX_LOGPROB_TOKENS),
        ("logit_bias", bounds.MAX_BIASED_TOKENS),
    ):
        field, tokens = f"{PATH}.{name}", getattr(params, name)
        if len(tokens) > most:
            yield from bounds.too_many(field, tokens, "tokens", most)
        else:
            yield from bounds.vocabulary(field, tokens, model.vocabulary_size)
    if len(params.logit_bias) <= bounds.MAX_BIASED_TOKENS:
        for token, bias in params.logit_bias.items():
            if not math.isfinite(bias):
                yield FieldViolation(f"{PATH}.logit_bias[{token}]", f"is {bias:g}; must be finite")


def _strings(params: generation_pb2.SamplingParams) -> Iterator[FieldViolation]:
    for name, texts, most in (
        ("stop", params.stop, bounds.MAX_STOP_STRINGS),
        ("bad_words", params.bad_words, bounds.MAX_BAD_WORDS),
    ):
        field = f"{PATH}.{name}"
        if len(texts) > most:
            yield from bounds.too_many(field, texts, "strings", most)
            continue
        for position, text in enumerate(texts):
            if not 1 <= len(text) <= bounds.MAX_STOP_LENGTH:
                yield FieldViolation(f"{field}[{position}]", f"has {len(text)} characters; from 1 to {bounds.MAX_STOP_LENGTH}")


def _structured_output(params: generation_pb2.SamplingParams, limits: Limits) -> Iterator[FieldViolation]:
    kind = params.WhichOneof("structured_output")
    if kind is None:
        for name in ONLY_WITH_STRUCTURE:
            if params.HasField(name):  # type: ignore[arg-type]
                yield FieldViolation(f"{PATH}.{name}", "is only allowed together with a structured_output option")
        return
    field, most = f"{PATH}.{kind}", limits.max_structure_bytes
    yield from bounds.too_large(f"{PATH}.whitespace_pattern", params.whitespace_pattern, most)
    if kind == "choice":
        yield from _choices(f"{field}.texts", params.choice.texts, most)
    elif kind == "json_object":
        if not params.json_object:
            yield FieldViolation(field, "must be true or unset")
    else:
        text = getattr(params, kind)
        large = list(bounds.too_large(field, text, most))
        # A text above the bound is not looked into, because that is what the bound saves.
        yield from large or _structure(field, kind, text)


def _choices(field: str, texts: Sequence[str], most: int) -> Iterator[FieldViolation]:
    # Counted first: so many empty texts would take a while to walk through, although they have no bytes.
    if len(texts) > most:
        yield from bounds.too_many(field, texts, "texts", most)
    elif not texts or not all(texts):
        yield FieldViolation(field, "needs at least one text, and none may be empty")
    elif (size := sum(len(text.encode()) for text in texts)) > most:
        yield FieldViolation(field, f"has {size} bytes; at most {most}")


def _structure(field: str, kind: str, text: str) -> Iterator[FieldViolation]:
    if kind in ("json_schema", "structural_tag"):
        try:
            schema = json.loads(text)
        except (ValueError, RecursionError) as error:
            place = f" at line {error.lineno} column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            yield FieldViolation(field, f"is not valid JSON{place}")
        else:
            if not isinstance(schema, dict):
                yield FieldViolation(field, "must be a JSON object")
    elif not text:
        yield FieldViolation(field, "is empty")


def _contradictions(params: generation_pb2.SamplingParams) -> Iterator[FieldViolation]:
    if params.HasField("min_tokens") and params.HasField("max_tokens") and params.min_tokens > params.max_tokens:
        yield FieldViolation(
            f"{PATH}.min_tokens", f"is {params.min_tokens}, more than max_tokens, which is {params.max_tokens}"
        )
    if params.HasField("temperature") and params.temperature == 0 and params.n > 1:
        yield FieldViolation(f"{PATH}.n", f"is {params.n}; must be 1 when temperature is 0, since all choices would be equal")


def _repetition(params: generation_pb2.SamplingParams, model: model_service_pb2.Model) -> Iterator[FieldViolation]:
    if not params.HasField("repetition_detection"):
        return
    field, detection = f"{PATH}.repetition_detection", params.repetition_detection
    if not 0 <= detection.min_pattern_size <= detection.max_pattern_size or detection.min_count < 2:
        yield FieldViolation(field, "needs 0 <= min_pattern_size <= max_pattern_size, and min_count of at least 2")
    for name in ("max_pattern_size", "min_count"):
        # The engine searches for it after every token; nothing longer than the context can ever be found.
        if (value := getattr(detection, name)) > model.max_model_len:
            yield FieldViolation(f"{field}.{name}", f"is {value}; must be at most {model.max_model_len}, which is the context")

"""Every list, map and text of a request is bounded, and judging the largest of them does not hold the event loop up."""

import json
import math
import time
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import duration_pb2
from google.protobuf.descriptor import FieldDescriptor

from gateway.core import bounds, validation
from gateway.core.bounds import Limits
from tokenrelay.errors import InvalidRequestError
from tokenrelay.v1 import generation_pb2 as g
from tokenrelay.v1 import generation_service_pb2 as s
from tokenrelay.v1 import model_service_pb2

MODEL = model_service_pb2.Model(name="m", max_model_len=2048, vocabulary_size=4096)
LIMITS = Limits(max_choices=16, max_time_seconds=86_400.0)
P = "spec.sampling_params."
HUGE = 4 * 1024 * 1024  # bytes of the largest request


def check(spec: g.GenerationSpec, **fields: Any) -> dict[str, str]:
    """Returns what was found wrong, by field."""
    try:
        validation.check(s.GenerateRequest(spec=spec, **fields), MODEL, LIMITS)
    except InvalidRequestError as error:
        return {violation.field: violation.description for violation in error.violations}
    return {}


def sampling(**fields: Any) -> g.GenerationSpec:
    return g.GenerationSpec(text="hello", sampling_params=g.SamplingParams(**fields))


def schema(size: int) -> str:
    return json.dumps({"x": ""}).replace('""', '"' + "a" * (size - len('{"x": ""}')) + '"')


def talk(messages: int, characters: int) -> g.GenerationSpec:
    return g.GenerationSpec(chat=g.Chat(messages=[g.ChatMessage(role="user", content="x" * characters)] * messages))


def repeats(count: int) -> g.GenerationSpec:
    return sampling(repetition_detection=g.RepetitionDetection(max_pattern_size=1, min_count=count))


BYTES = "has {} bytes; at most 65536"
CHARACTERS = "has {} characters; at most 524288, because the context has 2048 tokens"
# For each field: how it is filled with a number of things, how many of them are taken, and what is said of one more.
BOUNDED: list[tuple[str, Callable[[int], g.GenerationSpec], int, str]] = [
    (P + "stop_token_ids", lambda n: sampling(stop_token_ids=[1] * n), 128, "has 129 tokens; at most 128"),
    (P + "logprob_token_ids", lambda n: sampling(logprob_token_ids=[1] * n), 128, "has 129 tokens; at most 128"),
    (P + "allowed_token_ids", lambda n: sampling(allowed_token_ids=[1] * n), 4096, "has 4097 tokens; at most 4096"),
    (P + "logit_bias", lambda n: sampling(logit_bias=dict.fromkeys(range(n), 1.0)), 1024, "has 1025 tokens; at most 1024"),
    (P + "stop", lambda n: sampling(stop=["a"] * n), 64, "has 65 strings; at most 64"),
    (P + "bad_words", lambda n: sampling(bad_words=["a"] * n), 128, "has 129 strings; at most 128"),
    (P + "bad_words[0]", lambda n: sampling(bad_words=["a" * n]), 1024, "has 1025 characters; from 1 to 1024"),
    (P + "choice.texts", lambda n: sampling(choice=g.Choices(texts=["ab"] * n)), 32_768, BYTES.format(65_538)),
    (P + "choice.texts", lambda n: sampling(choice=g.Choices(texts=["a"] * n)), 65_536, "has 65537 texts; at most 65536"),
    (P + "json_schema", lambda n: sampling(json_schema=schema(n)), 65_536, BYTES.format(65_537)),
    (P + "structural_tag", lambda n: sampling(structural_tag=schema(n)), 65_536, BYTES.format(65_537)),
    (P + "regex", lambda n: sampling(regex="a" * n), 65_536, BYTES.format(65_537)),
    (P + "grammar", lambda n: sampling(grammar="é" * n), 32_768, BYTES.format(65_538)),
    (P + "whitespace_pattern", lambda n: sampling(regex="a", whitespace_pattern="b" * n), 65_536, BYTES.format(65_537)),
    (P + "logprobs", lambda n: sampling(logprobs=n), 4096, "is 4097; must be at least -1 and at most 4096"),
    (P + "prompt_logprobs", lambda n: sampling(prompt_logprobs=n), 4096, "is 4097; must be at least -1 and at most 4096"),
    (P + "repetition_detection.min_count", repeats, 2048, "is 2049; must be at most 2048, which is the context"),
    ("spec.text", lambda n: g.GenerationSpec(text="a" * n), 524_288, CHARACTERS.format(524_289)),
    ("spec.chat.messages", lambda n: talk(n, 131_072), 4, CHARACTERS.format(655_360)),
    ("spec.chat.messages", lambda n: talk(n, 1), 16_384, "has 16385 messages; at most 16384"),
]


@pytest.mark.parametrize(("field", "filled", "most", "said"), BOUNDED, ids=[f"{case[0]}-{case[3]}" for case in BOUNDED])
def test_a_bound_is_named_with_its_field_and_what_keeps_it_passes(
    field: str, filled: Callable[[int], g.GenerationSpec], most: int, said: str
) -> None:
    assert check(filled(most)) == {}
    assert check(filled(most + 1))[field] == said


def test_every_repeated_field_and_map_of_a_prompt_or_of_sampling_has_a_bound() -> None:
    def repeated(message: Any, path: str) -> set[str]:
        found = set()
        for field in message.fields:
            name = f"{path}{field.name}"
            if field.is_repeated:
                found.add(name)
            elif field.type == FieldDescriptor.TYPE_MESSAGE:
                found |= repeated(field.message_type, f"{name}.")
        return found

    bounded = {case[0] for case in BOUNDED} | {"spec.token_ids.ids"}  # these by the context
    assert repeated(g.GenerationSpec.DESCRIPTOR, "spec.") - bounded == set()


def varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


def field(number: int, content: bytes) -> bytes:
    return varint(number * 8 + 2) + varint(len(content)) + content


def of_sampling(number: int, content: bytes, *, packed: bool = False) -> bytes:
    """Returns a request of about HUGE bytes in which one field of the sampling parameters is as long as it goes."""
    one = content if packed else field(number, content)
    all_of_them = one * (HUGE // len(one))
    return field(1, field(2, b"hi") + field(5, field(number, all_of_them) if packed else all_of_them))


HOSTILE = {
    "stop_token_ids": of_sampling(10, b"\x01", packed=True),
    "allowed_token_ids": of_sampling(28, b"\x01", packed=True),
    "logprob_token_ids": of_sampling(29, b"\x01", packed=True),
    "stop": of_sampling(9, b"a"),
    "empty stop": of_sampling(9, b""),
    "bad_words": of_sampling(27, b"a"),
    "choices": field(1, field(2, b"hi") + field(5, field(23, field(1, b"") * (HUGE // 2)))),
    "json_schema": field(1, field(2, b"hi") + field(5, field(20, b"[" * HUGE))),
    "regex": field(1, field(2, b"hi") + field(5, field(21, "é".encode() * (HUGE // 2)))),
    "text": field(1, field(2, "é".encode() * (HUGE // 2))),
    "token ids": field(1, field(3, field(1, b"\x01" * HUGE))),
    "empty messages": field(1, field(4, field(1, b"") * (HUGE // 2))),
    "messages": field(1, field(4, field(1, field(1, b"user")) * (HUGE // 8))),
    "one message": field(1, field(4, field(1, field(1, b"user") + field(2, b"a" * HUGE)))),
    "one role": field(1, field(4, field(1, field(1, b"a" * HUGE) + field(2, b"a")))),
    "model": field(1, field(2, b"hi") + field(1, b"a" * HUGE)),
    "idempotency key": field(1, field(2, b"hi")) + field(2, b"a" * HUGE),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_judging_the_largest_request_takes_milliseconds(name: str) -> None:
    request = s.GenerateRequest.FromString(HOSTILE[name])
    started = time.process_time()
    if name != "model":  # it is looked up before, and not found
        with pytest.raises(InvalidRequestError):
            validation.check(request, MODEL, LIMITS)
    # Processor time, so that a busy machine changes nothing. It is ten times what judging takes, and a quarter of what
    # walking through such a list takes.
    assert time.process_time() - started < 0.1


def test_numbers_are_shown_as_they_were_sent() -> None:
    assert check(sampling(temperature=2.0000002))[P + "temperature"] == "is 2.0000002; must be from 0 to 2"
    assert check(sampling(top_p=1.0000001))[P + "top_p"] == "is 1.0000001; must be above 0 to 1"
    assert check(sampling(presence_penalty=-2.0000002))[P + "presence_penalty"] == "is -2.0000002; must be from -2 to 2"
    assert check(sampling(temperature=math.nan))[P + "temperature"] == "is nan; must be from 0 to 2"
    long = duration_pb2.Duration(seconds=86_400, nanos=1)
    assert check(sampling(), time_limit=long) == {"time_limit": "is 86400.000000001 s; must be from 0.001 to 86400 s"}
    negative = duration_pb2.Duration(nanos=-1)
    assert check(sampling(), queue_timeout=negative)["queue_timeout"].startswith("is -0.000000001 s;")


@pytest.mark.parametrize(
    ("value", "shown"), [(0.1, "0.1"), (2.5, "2.5"), (16_777_216.0, "16777216"), (1e-30, "1e-30"), (math.inf, "inf")]
)
def test_a_float_is_shown_in_the_fewest_digits(value: float, shown: str) -> None:
    assert bounds.as_sent(g.SamplingParams(temperature=value).temperature) == shown

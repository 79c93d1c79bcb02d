"""Structured output on a real vLLM engine: what is followed, and what is refused with its field."""

import json
from typing import Any

import pytest

from tests.support.vllm_engine import Engine
from tokenrelay.v1 import generation_pb2 as g

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]


def schema(value: object) -> dict[str, str]:
    return {"json_schema": json.dumps(value)}


def tag(value: object) -> dict[str, str]:
    return {"structural_tag": json.dumps(value)}


TYPED_TAG = {"type": "structural_tag", "format": {"type": "const_string", "value": "yes"}}
TOO_BIG_FOR_A_LIST = [f"text {number}" for number in range(5000)]


@pytest.mark.parametrize(
    "params",
    [
        {"regex": r"\p{L}+"},
        {"regex": "a++"},
        {"regex": "(a"},
        {"regex": r"(a)\1"},
        {"regex": r"[^\s\S]"},
        {"regex": r"a[^\s\S]"},
        {"regex": "(" + "a" * 8000},
        {"grammar": 'root ::= "a"\nroot ::= "b"'},
        {"grammar": "root ::= root"},
        {"grammar": "root ::= ("},
        {"grammar": 'x ::= "a"'},
        {"grammar": "start: start"},
        schema({"$ref": "#"}),
        schema({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
        schema({"not": {}}),
        schema({"not": True}),
        schema({"allOf": [{"not": {}}]}),
        schema({"anyOf": []}),
        schema({"enum": []}),
        schema({"type": "integer", "minimum": 5, "maximum": 3}),
        schema({"type": "integer", "multipleOf": 7}),
        schema({"type": "string", "format": ["x"]}),
        schema({"type": "no such type"}),
        tag({"structures": [1], "triggers": []}),
        tag({}),
        tag({"type": "structural_tag", "format": {"type": "nope"}}),
    ],
    ids=lambda params: next(iter(params.values()))[:40],
)
async def test_a_structure_that_cannot_be_followed_is_the_client_s_and_names_its_field(
    engine: Engine, params: dict[str, Any]
) -> None:
    answer = await engine.sample(**params)
    assert answer.fields == [f"spec.sampling_params.{next(iter(params))}"]
    assert answer.error is not None
    message = answer.error.message
    assert "object is not" not in message
    assert "unhashable" not in message
    assert not message.endswith((":", "error_id gen-1"))
    assert len(message) < 600
    assert (await engine.sample(regex="(cat|dog)")).text in ("cat", "dog"), "the next one passes"


@pytest.mark.parametrize(
    ("params", "texts"),
    [
        ({"choice": g.Choices(texts=TOO_BIG_FOR_A_LIST)}, TOO_BIG_FOR_A_LIST),
        (tag(TYPED_TAG), ["yes"]),
        ({"grammar": 'root ::= "a" | "b"'}, ["a", "b"]),
        (schema({"enum": ["x", 1]}), ['"x"', "1"]),
        ({"regex": "(cat|dog)"}, ["cat", "dog"]),
    ],
    ids=["choice", "structural_tag", "grammar", "json_schema", "regex"],
)
async def test_each_kind_of_structure_is_followed_whatever_was_asked_before(
    engine: Engine, params: dict[str, Any], texts: list[str]
) -> None:
    refused = await engine.sample(regex=r"\p{L}+")
    assert refused.error is not None, "its like must not decide what compiles the others"
    assert (await engine.sample(**params)).text in texts


async def test_choices_of_a_request_share_a_structure(engine: Engine) -> None:
    answer = await engine.sample(n=3, temperature=1, choice=g.Choices(texts=["red", "blue"]))
    assert len(answer.texts) == 3
    assert set(answer.texts.values()) <= {"red", "blue"}

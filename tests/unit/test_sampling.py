"""The contract's sampling parameters and vLLM's: the same names, and unset stays unset."""

from dataclasses import fields

import pytest
from vllm import SamplingParams
from vllm.sampling_params import RepetitionDetectionParams, StructuredOutputsParams

from engine_service import continuation, sampling
from tokenrelay.v1 import generation_pb2 as g


def test_only_what_is_set_is_passed_on() -> None:
    assert sampling.keyword_arguments(g.SamplingParams(), 0) == {}
    assert sampling.keyword_arguments(g.SamplingParams(temperature=0, min_tokens=0), 0) == {"temperature": 0, "min_tokens": 0}


def test_each_choice_has_its_own_seed() -> None:
    assert [sampling.keyword_arguments(g.SamplingParams(seed=7), index)["seed"] for index in range(3)] == [7, 8, 9]


def test_no_choice_has_the_number_that_means_no_seed() -> None:
    for first in (-3, -2, -1):
        seeds = [sampling.keyword_arguments(g.SamplingParams(seed=first), index)["seed"] for index in range(4)]
        assert -1 not in seeds
        assert len({seed % 2**32 for seed in seeds}) == 4, "CPUs look at the lower half only"


def test_seeds_stay_within_64_bits() -> None:
    largest = 2**63 - 1
    assert [sampling.keyword_arguments(g.SamplingParams(seed=largest), index)["seed"] for index in range(2)] == [
        largest,
        -(2**63),
    ]


def test_every_field_of_the_contract_reaches_vllm() -> None:
    theirs = set(SamplingParams.__struct_fields__)
    handled = {*sampling.SCALARS, *sampling.LISTS, "logit_bias", "seed", "max_tokens"}
    structured = {"json_schema", "regex", "grammar", "choice", "json_object", "structural_tag"}
    ours = {field.name for field in g.SamplingParams.DESCRIPTOR.fields}
    assert ours == handled | structured | {"n", "repetition_detection", *sampling.STRUCTURED_OPTIONS}
    assert handled <= theirs
    assert {sampling.STRUCTURED.get(name, name) for name in structured} | {*sampling.STRUCTURED_OPTIONS} <= {
        field.name for field in fields(StructuredOutputsParams)
    }
    assert {field.name for field in fields(RepetitionDetectionParams)} == {
        field.name for field in g.RepetitionDetection.DESCRIPTOR.fields
    }


@pytest.mark.parametrize(
    ("params", "arguments"),
    [
        (g.SamplingParams(json_schema="{}"), {"json": "{}"}),
        (g.SamplingParams(regex="a+"), {"regex": "a+"}),
        (g.SamplingParams(choice=g.Choices(texts=["a", "b"])), {"choice": ["a", "b"]}),
        (g.SamplingParams(json_object=True), {"json_object": True}),
        (g.SamplingParams(), None),
    ],
)
def test_structured_output(params: g.SamplingParams, arguments: dict[str, object] | None) -> None:
    assert sampling.structured_output(params) == arguments


@pytest.mark.parametrize(
    ("params", "temperature", "exact"),
    [
        (g.SamplingParams(), 0.0, True),
        (g.SamplingParams(repetition_penalty=1.2), 0.0, True),
        (g.SamplingParams(seed=1), 1.0, False),
        (g.SamplingParams(presence_penalty=0.5), 0.0, False),
        (g.SamplingParams(frequency_penalty=-0.5), 0.0, False),
        (g.SamplingParams(bad_words=["x"]), 0.0, False),
    ],
)
def test_a_continuation_says_whether_it_is_exact(params: g.SamplingParams, temperature: float, exact: bool) -> None:
    assert continuation.is_exact(params, temperature) is exact

"""Which JSON schemas are known to be satisfied by nothing, before a compiler sees them."""

import warnings
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's and vLLM's own, when they are imported
    from engine_service.engines.vllm.grammars import accepts_nothing


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"not": {}},
        {"not": True},
        {"type": "string", "not": {}},
        {"enum": []},
        {"anyOf": []},
        {"oneOf": [False]},
        {"anyOf": [{"not": {}}, {"enum": []}]},
        {"allOf": [{}, {"not": {}}]},
        {"type": []},
    ],
)
def test_nothing_satisfies_it(schema: Any) -> None:
    assert accepts_nothing(schema)


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"not": {"type": "string"}},
        {"anyOf": [{"not": {}}, {}]},
        {"allOf": []},
        {"properties": {"a": False}},
        {"enum": [1]},
        {"anyOf": "x"},
    ],
)
def test_something_may_satisfy_it(schema: Any) -> None:
    assert not accepts_nothing(schema)

"""The deltas that the engine service puts together by hand, read by protobuf's library."""

import pytest

from engine_service.deltas import delta, merged
from engine_service.engines import Tokens
from tokenrelay.v1 import generation_pb2 as g

LOGPROBS = [g.TokenLogprobs(candidates=[g.Logprob(token_id=5, text="é", logprob=-0.5)])]


@pytest.mark.parametrize("logprobs", [(), LOGPROBS], ids=["", "logprobs"])
@pytest.mark.parametrize("prompt_logprobs", [(), LOGPROBS], ids=["", "prompt_logprobs"])
@pytest.mark.parametrize("ids", [(), (0,), (127,), (128,), [300_000, 1, 2**31 - 1], range(200)], ids=repr)
@pytest.mark.parametrize("text", ["", "a", "é 😀", "x" * 127, "x" * 200], ids=["none", "one", "wide", "127", "200"])
@pytest.mark.parametrize("index", [0, 1, 200])
def test_a_delta_is_what_protobuf_would_write(
    index: int, text: str, ids: list[int], prompt_logprobs: list[g.TokenLogprobs], logprobs: list[g.TokenLogprobs]
) -> None:
    made = delta(Tokens(index, text, ids, None, logprobs, prompt_logprobs))
    wanted = g.Delta(index=index, text=text, token_ids=ids, logprobs=logprobs, prompt_logprobs=prompt_logprobs)
    assert g.Delta.FromString(made) == wanted
    assert made == wanted.SerializeToString(deterministic=True)


def test_pieces_of_a_choice_become_one() -> None:
    end = g.ChoiceEnd(index=2)
    pieces = [Tokens(2, "a", (1,), None, LOGPROBS), Tokens(2, "", [2, 3]), Tokens(2, "b", (), end, (), LOGPROBS)]
    assert merged(pieces) == Tokens(2, "ab", [1, 2, 3], end, LOGPROBS, LOGPROBS)

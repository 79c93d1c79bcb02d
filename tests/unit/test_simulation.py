from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_service.engines.simulated.simulation import (
    END,
    FIRST_LEAD,
    PAIRS,
    VOCABULARY_SIZE,
    Chain,
    expected_tokens,
    prompt_tokens,
    text_of,
    token_bytes,
)
from tokenrelay.v1 import generation_pb2 as g


def spec(text: str = "hello", **sampling: object) -> g.GenerationSpec:
    return g.GenerationSpec(text=text, sampling_params=g.SamplingParams(**{"max_tokens": 200, "ignore_eos": True, **sampling}))  # type: ignore[arg-type]


@given(st.integers(0, 199), st.integers(0, VOCABULARY_SIZE - 1))
def test_one_wrong_token_changes_everything_after_it(place: int, wrong: int) -> None:
    right = list(expected_tokens(spec()))
    chain = Chain(spec(), 0, multi_byte=True)
    for token in right[:place]:
        chain.move_past(token)
    if wrong == right[place]:
        return
    chain.move_past(wrong)
    rest = [chain.next(may_end=False) for _ in range(30)]
    same = sum(one == other for one, other in zip(rest, right[place + 1 :], strict=False))
    assert same <= 2


def test_prompts_and_choices_have_answers_of_their_own() -> None:
    answers = [tuple(islice(expected_tokens(spec(text), index), 20)) for text in ("a", "b") for index in range(3)]
    assert len(set(answers)) == 6


def test_a_continued_chain_goes_on_as_if_undisturbed() -> None:
    whole = list(expected_tokens(spec()))
    chain = Chain(spec(), 0, multi_byte=True)
    for token in whole[:77]:
        chain.move_past(token)
    assert [chain.next(may_end=False) for _ in range(50)] == whole[77:127]


def test_every_character_that_is_split_comes_out_whole() -> None:
    for lead in range(FIRST_LEAD, FIRST_LEAD + PAIRS):
        assert len((token_bytes(lead) + token_bytes(lead + PAIRS)).decode()) == 1
        with pytest.raises(UnicodeDecodeError):
            token_bytes(lead).decode()
    text = text_of(list(expected_tokens(spec(max_tokens=5000))))
    assert "\ufffd" not in text
    assert any(ord(character) > 127 for character in text)


def test_plain_text_if_multi_byte_is_off() -> None:
    assert text_of(list(expected_tokens(spec(max_tokens=3000), multi_byte=False))).isascii()


def test_it_ends_by_itself_unless_told_otherwise() -> None:
    lengths = [len(list(expected_tokens(spec(f"p{n}", ignore_eos=False, max_tokens=20_000)))) for n in range(20)]
    assert 300 < sum(lengths) / len(lengths) < 3000
    ended = list(expected_tokens(spec("p1", ignore_eos=False, max_tokens=20_000)))
    assert ended[-1] == END
    later = list(expected_tokens(spec("p1", ignore_eos=False, max_tokens=20_000, min_tokens=len(ended) + 10)))
    assert len(later) > len(ended) + 10


def test_prompts_count_as_tokens() -> None:
    assert prompt_tokens(g.GenerationSpec(token_ids=g.TokenIds(ids=[1, 2, 3]))) == 3
    assert prompt_tokens(g.GenerationSpec(text="x" * 40)) == 11
    chat = g.Chat(messages=[g.ChatMessage(role="user", content="hi"), g.ChatMessage(role="user", content="x" * 8)])
    assert prompt_tokens(g.GenerationSpec(chat=chat)) == 4

"""What a real vLLM engine answers to requests that it alone can judge."""

import asyncio
from typing import Any

import pytest

from tests.support.vllm_engine import HELLO, Engine, tokens
from tokenrelay.engine.v1 import engine_service_pb2 as e
from tokenrelay.v1 import generation_pb2 as g

pytestmark = pytest.mark.vllm

PART_OF_AN_EMOJI = [226, 178, 259, 240]  # a space, and three bytes of four
STOP, LENGTH = g.FINISH_REASON_STOP, g.FINISH_REASON_LENGTH


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("logprobs", {"logprobs": 21}),
        ("logprobs", {"logprobs": -1}),
        ("prompt_logprobs", {"prompt_logprobs": 21}),
        ("bad_words", {"bad_words": [" "]}),
        ("bad_words", {"bad_words": [f"word {number}" for number in range(600)]}),
        ("thinking_token_budget", {"thinking_token_budget": 5}),
        ("logprob_token_ids", {"logprob_token_ids": [5, 6], "logprobs": 1}),
        ("logprob_token_ids", {"logprob_token_ids": list(range(129))}),
        ("min_tokens", {"min_tokens": 2047, "max_tokens": None}),
        ("min_tokens", {"min_tokens": 5, "stop_token_ids": list(range(2048))}),
        ("min_tokens", {"min_tokens": 5, "allowed_token_ids": [2, 9], "stop_token_ids": [9]}),
        ("bad_words", {"allowed_token_ids": HELLO[:1], "bad_words": ["Hello"]}),
    ],
)
async def test_what_the_engine_does_not_take_names_the_field(engine: Engine, name: str, params: dict[str, Any]) -> None:
    assert (await engine.sample(**params)).fields == [f"spec.sampling_params.{name}"]


async def test_min_tokens_too_many_for_the_context_are_told_with_the_limit(engine: Engine) -> None:
    answer = await engine.sample(min_tokens=2047, max_tokens=None)
    assert answer.error is not None
    assert "is 2047; at most 2046" in answer.error.message
    assert "max_tokens=" not in answer.error.message, "it was never set"


@pytest.mark.parametrize("params", [{}, {"stop": ["!"]}, {"logprobs": 1, "prompt_logprobs": 1}, {"n": 2, "temperature": 1}])
@pytest.mark.parametrize("prompt", [[*HELLO, *PART_OF_AN_EMOJI], [*HELLO, 226], PART_OF_AN_EMOJI[1:], [178] * 70])
async def test_the_prompt_is_no_part_of_the_answer_s_text(engine: Engine, prompt: list[int], params: dict[str, Any]) -> None:
    answer = await engine.generate(tokens(prompt, **params))
    assert answer.summary is not None
    for index, text in answer.texts.items():
        # Each token's text is short; with the prompt's in it, the first piece would be longer than the tokens allow.
        assert "Hello world" not in text
        assert text.count("\ufffd") <= len(answer.token_ids[index])
    if params.get("stop"):
        assert "!" not in answer.text
        assert answer.summary.choices[0].finish_reason in (STOP, LENGTH)
    if params.get("logprobs"):
        found = [position for delta in answer.deltas for position in delta.prompt_logprobs]
        assert len(found) == len(prompt)
        assert not any("Hello" in position.candidates[0].text for delta in answer.deltas[:1] for position in delta.logprobs[:1])


async def test_a_text_that_ends_with_the_replacement_character_is_no_part_of_the_answer(engine: Engine) -> None:
    params = g.SamplingParams(temperature=0, max_tokens=12)
    answer = await engine.generate(g.GenerationSpec(text="Hello world \ufffd", sampling_params=params))
    assert "Hello world" not in answer.text


@pytest.mark.parametrize("prompt", [[*HELLO, *PART_OF_AN_EMOJI], HELLO])
async def test_after_a_takeover_the_text_is_what_it_would_have_been(engine: Engine, prompt: list[int]) -> None:
    undisturbed = await engine.generate(tokens(prompt))
    for out in (1, 2, 5):
        ids = undisturbed.token_ids[0][:out]
        first = await engine.generate(tokens(prompt, max_tokens=out))
        emitted = e.EmittedChoice(index=0, token_ids=ids, text_length=len(first.text))
        rest = await engine.generate(tokens(prompt), emitted)
        assert first.text + rest.text == undisturbed.text
        assert ids + rest.token_ids[0] == undisturbed.token_ids[0]


async def test_long_texts_are_refused_with_their_field(engine: Engine) -> None:
    text = g.GenerationSpec(text="lighthouse " * 360_000)
    chat = g.GenerationSpec(chat=g.Chat(messages=[g.ChatMessage(role="user", content=text.text)]))
    small = g.GenerationSpec(text="hi", sampling_params=g.SamplingParams(max_tokens=1))
    *refused, one = await asyncio.gather(*(engine.generate(spec) for spec in (text, chat) * 3), engine.generate(small))
    assert one.summary is not None
    assert [answer.fields for answer in refused] == [["spec.text"], ["spec.chat"]] * 3
    assert all("than the context of 2048" in answer.error.message for answer in refused if answer.error)


async def test_a_text_that_fits_is_not_refused_by_its_length(engine: Engine) -> None:
    answer = await engine.generate(g.GenerationSpec(text=" " * 2_000, sampling_params=g.SamplingParams(max_tokens=1)))
    assert answer.summary is not None


@pytest.mark.parametrize("seed", [-1, -2, 2**63 - 1, -(2**63)])
async def test_every_seed_repeats_all_choices(engine: Engine, seed: int) -> None:
    first, second = [await engine.sample(seed=seed, n=3, temperature=2) for _ in range(2)]
    assert len(set(first.texts.values())) == 3
    assert first.texts == second.texts

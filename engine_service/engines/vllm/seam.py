"""The text of a choice that vLLM would get wrong: after a takeover, or after a prompt that ends within a character."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from vllm import SamplingParams
from vllm.tokenizers.detokenizer_utils import convert_ids_list_to_tokens
from vllm.v1.engine.detokenizer import IncrementalDetokenizer
from vllm.v1.engine.logprobs import LogprobsProcessor

LONGEST_CHARACTER = 4  # tokens, if each is a byte
CONTEXT = 64  # tokens before the answer; its first token may look different without them
INCOMPLETE = "\ufffd"  # what a character is decoded to of which bytes are missing


def ends_within_character(tokenizer: Any, prompt: Sequence[int], *, skip_special_tokens: bool) -> bool:
    """Tells whether a prompt's text ends with an incomplete character, or with the one that stands for it.

    vLLM's detokenizer then takes the whole prompt for text that is still to come, and emits it with the first token.
    """
    return _text(tokenizer, prompt, skip_special_tokens=skip_special_tokens).endswith(INCOMPLETE)


def context_of(tokenizer: Any, prompt: Sequence[int], *, skip_special_tokens: bool) -> list[int]:
    """Returns the end of a prompt up to its last complete character, for a detokenizer to begin after."""
    context = list(prompt[-CONTEXT:])
    while context and _text(tokenizer, context, skip_special_tokens=skip_special_tokens).endswith(INCOMPLETE):
        context.pop()
    return context


def _text(tokenizer: Any, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
    text: str = tokenizer.decode(list(tokens[-CONTEXT:]), skip_special_tokens=skip_special_tokens)
    if text or len(tokens) <= CONTEXT:
        return text
    whole: str = tokenizer.decode(list(tokens), skip_special_tokens=skip_special_tokens)
    return whole


class Seam:
    """A detokenizer that begins after the prompt's last complete character and has seen what earlier attempts emitted.

    vLLM's own would begin at the seam, and so lose a character whose bytes fall on both sides, and a stop string too.

    Args:
        tokenizer: the model's.
        prompt: the tokens before the answer.
        params: of the whole choice, with its stop strings.
        emitted: the tokens that earlier attempts have emitted.
        text_length: how many characters of their text are out.
    """

    def __init__(
        self, tokenizer: Any, prompt: Sequence[int], params: SamplingParams, emitted: Sequence[int] = (), text_length: int = 0
    ) -> None:
        self._tokenizer = tokenizer
        context = context_of(tokenizer, prompt, skip_special_tokens=params.skip_special_tokens)
        request = SimpleNamespace(request_id="seam", prompt_token_ids=context, prompt_embeds=None, sampling_params=params)
        self._detokenizer = IncrementalDetokenizer.from_new_request(tokenizer, request)
        self._candidates = LogprobsProcessor.from_new_request(tokenizer, request)
        self._detokenizer.update(list(emitted), False)
        already = self._detokenizer.get_next_output_text(False, True)
        self._withheld = already[text_length:]

    def add(self, token_ids: list[int], *, stopped: bool) -> tuple[str | None, int]:
        """Takes new tokens; returns the stop string that they complete, if any, and how many of them are left then."""
        before = self._detokenizer.num_output_tokens()
        found: str | None = self._detokenizer.update(token_ids, stopped)
        return found, self._detokenizer.num_output_tokens() - before

    def release(self, *, ended: bool) -> str:
        """Returns the text that is new and certain."""
        text: str = self._withheld + self._detokenizer.get_next_output_text(ended, True)
        self._withheld = ""
        return text

    def decode(self, token_ids: Sequence[int], logprobs: Any) -> None:
        """Gives the candidates at tokens just added their text, as vLLM would have: it leaves it out with detokenize off."""
        generated = self._detokenizer.output_token_ids
        self._decode(generated, logprobs, len(generated) - len(token_ids))

    def decode_prompt(self, prompt: Sequence[int], logprobs: Any) -> None:
        """Gives the candidates at the prompt's tokens their text."""
        self._decode(prompt, logprobs, 0)

    def _decode(self, tokens: Sequence[int], logprobs: Any, first: int) -> None:
        for place, position in enumerate(logprobs, first):
            if not position:  # a prompt's first token follows nothing
                continue
            texts = convert_ids_list_to_tokens(self._tokenizer, list(position))
            # A character may have begun in the tokens before.
            context = list(tokens[max(0, place - LONGEST_CHARACTER) : place])
            texts = self._candidates._verify_tokens(texts, list(position), context)  # there is no public one
            for logprob, text in zip(position.values(), texts, strict=True):
                logprob.decoded_token = text

"""What is asked for: prompts of token ids, part of them shared by all requests, and how many tokens come back."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

LETTERS = str.maketrans("0123456789", "aeioutnsr ")
SPECIAL_TOKENS = 256  # ids below are left out: byte tokens and markers of most vocabularies


@dataclass(frozen=True)
class Workload:
    """One shape of requests.

    Attributes:
        input_tokens: the length of a prompt.
        output_tokens: the length of an answer, forced.
        shared: which part of a prompt, from its beginning, is the same in all requests: 0 to 1.
        vocabulary_size: prompts are drawn from its ids.
        text: whether a prompt is sent as text, four characters for each of its tokens, instead of ids.
        seed: the same seed gives the same prompts.
    """

    input_tokens: int = 8
    output_tokens: int = 128
    shared: float = 0.5
    vocabulary_size: int = 1024
    seed: int = 0
    text: bool = False

    def requests(self, stream: int = 0) -> Iterator["Request"]:
        """Yields requests without an end; each stream has its own, with the prefix that all share."""
        common = random.Random(self.seed)
        own = random.Random(f"{self.seed}-{stream}")
        prefix = self._draw(common, round(self.input_tokens * self.shared))
        while True:
            prompt = (*prefix, *self._draw(own, self.input_tokens - len(prefix)))
            yield Request("".join(map(_word, prompt)) if self.text else prompt, self.output_tokens)

    def _draw(self, source: random.Random, count: int) -> tuple[int, ...]:
        first = min(SPECIAL_TOKENS, self.vocabulary_size // 2)
        return tuple(source.randrange(first, self.vocabulary_size) for _ in range(count))


def _word(token: int) -> str:
    """Returns four characters that stand for a token's id."""
    return f"{token % 10_000:04d}".translate(LETTERS)


@dataclass(frozen=True)
class Request:
    """One request: greedy, its length forced. The prompt is token ids, or text."""

    prompt: tuple[int, ...] | str
    output_tokens: int

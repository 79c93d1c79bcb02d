"""What the simulated engine answers, as pure functions, so that a client can compute what it must see.

Token i is a keyed hash of the prompt and of all tokens before it: one lost, repeated or crossed token changes everything
after it. This is no model, and says nothing about one.
"""

from collections.abc import Iterator
from functools import cache
from hashlib import blake2b

from tokenrelay.v1 import generation_pb2

VOCABULARY_SIZE = 4096
END = 0  # the end-of-sequence token
KEY = b"tokenrelay simulated engine 1"
MEAN_LENGTH = 1000  # tokens until the end-of-sequence token, on average

CHARACTERS = (
    "áàâãäåæçéèêëíîïñóôõöøúûüýßčďěňřšťůžłąęğışŵαβγδεζηθλμξπρσφψωб"
    "вгдежзийклмнопрстуфцчшщыэюя中文字水火山川日月人你好世界語東京한국어안녕🙂🏃🚀🌊🔥🌳🎈🍀"
)
PAIRS = 128
FIRST_LEAD = VOCABULARY_SIZE - 2 * PAIRS  # a lead has a character's first bytes; its tail, PAIRS later, has the rest
FIRST_TAIL = VOCABULARY_SIZE - PAIRS
ONSETS, VOWELS = "bdfghjklmnprstvz", "aeiou"


class Chain:
    """The tokens of one choice, one after the other."""

    def __init__(self, spec: generation_pb2.GenerationSpec, index: int, *, multi_byte: bool) -> None:
        self._state = blake2b(prompt_bytes(spec), key=KEY, salt=index.to_bytes(16, "little"), digest_size=16).digest()
        self._multi_byte = multi_byte
        self._previous = END

    def next(self, *, may_end: bool) -> int:
        """Returns the next token and moves on."""
        token = self._choose(may_end)
        self.move_past(token)
        return token

    def move_past(self, token: int) -> None:
        """Moves on past a token that has been emitted."""
        self._state = blake2b(self._state, key=token.to_bytes(4, "little"), digest_size=16).digest()
        self._previous = token

    def _choose(self, may_end: bool) -> int:
        if FIRST_LEAD <= self._previous < FIRST_TAIL:
            return self._previous + PAIRS
        number = int.from_bytes(self._state[:8], "little")
        if may_end and number % MEAN_LENGTH == 0:
            return END
        last = FIRST_TAIL if self._multi_byte else FIRST_LEAD
        return 1 + (number // MEAN_LENGTH) % (last - 1)


def prompt_bytes(spec: generation_pb2.GenerationSpec) -> bytes:
    """Returns what stands for a prompt: the deterministic bytes of its part of the spec."""
    prompt = generation_pb2.GenerationSpec()
    prompt.CopyFrom(spec)
    prompt.ClearField("model")
    prompt.ClearField("sampling_params")
    return prompt.SerializeToString(deterministic=True)


def prompt_tokens(spec: generation_pb2.GenerationSpec) -> int:
    """Returns how many tokens a prompt counts as: its ids, or one for every four bytes."""
    if spec.WhichOneof("prompt") == "token_ids":
        return len(spec.token_ids.ids)
    texts = [spec.text] if spec.WhichOneof("prompt") == "text" else [message.content for message in spec.chat.messages]
    return sum(len(text.encode()) // 4 + 1 for text in texts)


@cache
def token_bytes(token: int) -> bytes:
    """Returns a token's bytes: a word with a space before it, or a part of a character."""
    if token == END:
        return b""
    if token >= FIRST_LEAD:
        character = CHARACTERS[(token - FIRST_LEAD) % PAIRS % len(CHARACTERS)].encode()
        return character[: len(character) // 2] if token < FIRST_TAIL else character[len(character) // 2 :]
    syllables = []
    number = token
    while number:
        number, place = divmod(number, len(ONSETS) * len(VOWELS))
        syllables.append(ONSETS[place % len(ONSETS)] + VOWELS[place // len(ONSETS)])
    return (" " + "".join(syllables)).encode()


def expected_tokens(spec: generation_pb2.GenerationSpec, index: int = 0, *, multi_byte: bool = True) -> Iterator[int]:
    """Yields what an undisturbed choice must be, the end-of-sequence token included; max_tokens must be set."""
    params = spec.sampling_params
    chain = Chain(spec, index, multi_byte=multi_byte)
    for count in range(params.max_tokens):
        token = chain.next(may_end=not params.ignore_eos and count >= params.min_tokens)
        yield token
        if token == END:
            return


def text_of(tokens: list[int]) -> str:
    """Returns the text of whole tokens; an incomplete character at the end is left out."""
    return b"".join(token_bytes(token) for token in tokens).decode("utf-8", "ignore")

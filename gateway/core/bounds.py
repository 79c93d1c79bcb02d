"""The bounds that requests are held to, and how their violations are worded: the value as it was sent, and the limit."""

import ctypes
import math
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass

from tokenrelay.errors import FieldViolation

MAX_KEY_LENGTH = 256  # characters of an idempotency key
MAX_MESSAGES = 16_384  # of a conversation; a chat template makes several tokens of each
MAX_ROLE_SHOWN = 24  # characters of a wrong role that an error repeats
MAX_STOP_STRINGS = 64
MAX_STOP_LENGTH = 1024  # characters
# Engines look through these for every token that they generate, so long lists slow every stream of the engine.
# The numbers are vLLM's own (vllm/sampling_params.py, vllm/v1/worker/gpu/sample/logit_bias.py).
MAX_STOP_TOKENS = 128
MAX_LOGPROB_TOKENS = 128
MAX_BAD_WORDS = 128
MAX_BIASED_TOKENS = 1024


@dataclass(frozen=True)
class Limits:
    """What this server allows, beside what the model does.

    Attributes:
        max_choices: the largest n.
        max_time_seconds: the longest queue_timeout and time_limit.
        max_structure_bytes: the largest schema, grammar, expression or list of choices, in bytes of UTF-8.
        longest_token_characters: no token of any model has more characters; a text prompt with more than so many for each
            token of the context cannot fit, and is refused before anyone tokenizes it.
    """

    max_choices: int
    max_time_seconds: float
    max_structure_bytes: int = 64 * 1024
    longest_token_characters: int = 256


def too_many(field: str, values: Sized, noun: str, most: int) -> Iterator[FieldViolation]:
    """Judges how many values a list has, without a look at any of them."""
    if len(values) > most:
        yield FieldViolation(field, f"has {len(values)} {noun}; at most {most}")


def too_large(field: str, text: str, most: int) -> Iterator[FieldViolation]:
    """Judges a text's size in UTF-8."""
    # A character has one byte at least, so that a huge text is refused without being encoded.
    size = len(text) if len(text) > most else len(text.encode())
    if size > most:
        yield FieldViolation(field, f"has {size} bytes; at most {most}")


def vocabulary(field: str, ids: Iterable[int], size: int) -> Iterator[FieldViolation]:
    """Judges token ids; names the first one that the vocabulary does not have."""
    for position, token in enumerate(ids):
        if not 0 <= token < size:
            yield FieldViolation(f"{field}[{position}]", f"{token} is not in the vocabulary; from 0 to {size - 1}")
            return


def number(field: str, value: float, low: float, high: float, *, low_open: bool) -> Iterator[FieldViolation]:
    """Judges a float; low_open excludes the lower bound itself."""
    if not math.isfinite(value) or value < low or value > high or (low_open and value == low):
        bounds = f"above {low:g}" if low_open else f"from {low:g}"
        upper = f" to {high:g}" if math.isfinite(high) else ", and finite"
        yield FieldViolation(field, f"is {as_sent(value)}; must be {bounds}{upper}")


def whole_number(field: str, value: int, least: int, most: int | None) -> Iterator[FieldViolation]:
    """Judges an integer; most is None if it has no upper bound."""
    if value < least or (most is not None and value > most):
        upper = "" if most is None else f" and at most {most}"
        yield FieldViolation(field, f"is {value}; must be at least {least}{upper}")


def as_sent(value: float) -> str:
    """Returns a protobuf float in the fewest digits that stand for that very float, so that 2.0000002 is not shown as 2."""
    for digits in range(6, 9):
        text = f"{value:.{digits}g}"
        if ctypes.c_float(float(text)).value == value:
            return text
    return f"{value:.9g}"


def seconds(whole: int, nanoseconds: int = 0) -> str:
    """Returns a duration in seconds with all of its digits."""
    total = whole * 1_000_000_000 + nanoseconds
    sign = "-" if total < 0 else ""
    whole, rest = divmod(abs(total), 1_000_000_000)
    return f"{sign}{whole}.{rest:09d}".rstrip("0").rstrip(".")

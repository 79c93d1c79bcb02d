"""Bytes of tokens into text, with stop strings: for engines that have no detokenizer of their own."""

import codecs
from collections.abc import Sequence


class TextStream:
    """Text that comes in bytes, cut at a stop string.

    Text is held back while it may still become a stop string, and while a character is incomplete.

    Args:
        stop: the strings that end it.
        include_stop: whether the match stays in the text.
        released: how many characters are out already; they are not given again.
    """

    def __init__(self, stop: Sequence[str], *, include_stop: bool, released: int = 0) -> None:
        self._stop = stop
        self._include_stop = include_stop
        self._held_back = 0 if include_stop else max((len(one) for one in stop), default=1) - 1
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""
        self._released = released

    def add(self, piece: bytes, *, may_stop: bool = True) -> str | None:
        """Takes a token's bytes; returns the stop string that they complete, if any."""
        start = len(self._text)
        self._text += self._decoder.decode(piece)
        if not self._stop or not may_stop or len(self._text) == start:
            return None
        matches = [(end, found) for found in self._stop if (end := self._end_of(found, start)) is not None]
        if not matches:
            return None
        end, found = min(matches)
        self._text = self._text[: end if self._include_stop else end - len(found)]
        return found

    def _end_of(self, stop: str, start: int) -> int | None:
        """Returns where a stop string ends that reaches into the text from an offset on."""
        place = self._text.find(stop, max(0, start - len(stop) + 1))
        return None if place < 0 else place + len(stop)

    def release(self, *, ended: bool) -> str:
        """Returns the text that is new and certain; all that is left if it has ended."""
        certain = len(self._text) if ended else len(self._text) - self._held_back
        if certain <= self._released:
            return ""
        fresh = self._text[self._released : certain]
        self._released = certain
        return fresh

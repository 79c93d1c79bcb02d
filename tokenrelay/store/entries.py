"""The bytes of what an attempt appends: a store LogEntry, and the FeedEntry that takes it to readers.

They are put together by hand, because messages of protobuf's library would cost more than all else that a worker does for a
token. A test reads them with that library.
"""

from tokenrelay.v1 import generation_pb2
from tokenrelay.wire import varint

# Tags of the wire format: field number * 8 + 2 for bytes, + 0 for numbers.
DELTA, TOKEN_COUNT, INDEX, EPOCH, END = b"\x0a", b"\x10", b"\x18", b"\x20", b"\x2a"  # of a LogEntry
ENTRIES = b"\x0a"  # of a FeedFrame
GENERATION_ID, SEQUENCE, LOG_ENTRY = b"\x0a", b"\x10", b"\x1a"  # of a FeedEntry


class EntryWriter:
    """Writes the entries of one attempt.

    Args:
        generation_id: of the generation that is attempted.
        epoch: the attempt's.
    """

    def __init__(self, generation_id: str, epoch: int) -> None:
        name = generation_id.encode()
        self._epoch = EPOCH + varint(epoch)
        self._of_generation = GENERATION_ID + varint(len(name)) + name + SEQUENCE

    def feed_entry(
        self, delta: bytes, token_count: int, sequence: int, index: int = 0, end: generation_pb2.ChoiceEnd | None = None
    ) -> tuple[bytes, int]:
        """Returns what a serialized FeedFrame holds of an entry, and the size of the LogEntry, which is at its end.

        Args:
            delta: a serialized Delta.
            token_count: how many tokens it has.
            sequence: the log's, after this entry.
            index: of which choice.
            end: how the choice ended, if it did with these tokens.
        """
        entry = DELTA + varint(len(delta)) + delta + TOKEN_COUNT + varint(token_count) + self._epoch
        if index:
            entry += INDEX + varint(index)
        if end is not None:
            serialized = end.SerializeToString()
            entry += END + varint(len(serialized)) + serialized
        size = len(entry)
        feed = self._of_generation + varint(sequence) + LOG_ENTRY + varint(size) + entry
        return ENTRIES + varint(len(feed)) + feed, size

"""The bytes that a worker puts together by hand, read by protobuf's library."""

import pytest

from tokenrelay.store.entries import EntryWriter
from tokenrelay.store.v1 import store_pb2
from tokenrelay.v1 import generation_pb2

GENERATION = "12-" + "a" * 32
END = generation_pb2.ChoiceEnd(index=3, finish_reason=generation_pb2.FINISH_REASON_STOP, stop_string="é")


@pytest.mark.parametrize("end", [None, END, generation_pb2.ChoiceEnd()], ids=["goes on", "ends", "empty end"])
@pytest.mark.parametrize("index", [0, 1, 127, 128, 300])
@pytest.mark.parametrize("epoch", [1, 127, 128, 2**40])
@pytest.mark.parametrize("size", [0, 1, 127, 128, 70_000], ids=str)
def test_entries_are_what_protobuf_would_write(size: int, epoch: int, index: int, end: generation_pb2.ChoiceEnd | None) -> None:
    delta = bytes(range(256))[:size] if size < 256 else b"x" * size
    writer = EntryWriter(GENERATION, epoch)
    sequences = (1, 128, 2**40)
    written = [writer.feed_entry(delta, size + 1, sequence, index, end) for sequence in sequences]
    wanted = store_pb2.LogEntry(delta=delta, token_count=size + 1, index=index, epoch=epoch, end=end)
    frame = store_pb2.FeedFrame.FromString(b"".join(feed for feed, _ in written))
    assert [(one.generation_id, one.sequence) for one in frame.entries] == [(GENERATION, sequence) for sequence in sequences]
    for (feed, entry_size), entry in zip(written, frame.entries, strict=True):
        assert store_pb2.LogEntry.FromString(entry.log_entry) == wanted
        assert feed[-entry_size:] == entry.log_entry

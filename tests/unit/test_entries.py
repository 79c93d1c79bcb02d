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
    entry = writer.log_entry(delta, size + 1, index, end)
    wanted = store_pb2.LogEntry(delta=delta, token_count=size + 1, index=index, epoch=epoch, end=end)
    assert store_pb2.LogEntry.FromString(entry) == wanted

    feed = b"".join(writer.feed_entry(sequence, entry) for sequence in (1, 128, 2**40))
    frame = store_pb2.FeedFrame.FromString(feed)
    assert [(one.generation_id, one.sequence, one.log_entry) for one in frame.entries] == [
        (GENERATION, sequence, entry) for sequence in (1, 128, 2**40)
    ]
    assert feed.endswith(entry)

"""What readers are sent: bytes that are put together by hand must be what protobuf would write."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.core import responses
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import LogItem
from tokenrelay.v1 import generation_pb2 as g
from tokenrelay.v1 import generation_service_pb2 as s

texts = st.text(max_size=300)
deltas = st.builds(
    g.Delta, index=st.integers(0, 3), text=texts, token_ids=st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=5)
)


def item(sequence: int, delta: g.Delta) -> LogItem:
    count = len(delta.token_ids)
    return LogItem(sequence, store_pb2.LogEntry(delta=delta.SerializeToString(), token_count=count, index=delta.index))


@given(st.integers(1, 2**40), deltas)
def test_a_forwarded_delta_is_what_protobuf_would_write(sequence: int, delta: g.Delta) -> None:
    (response,) = responses.deltas([item(sequence, delta)])
    expected = s.GenerateStreamResponse(event=g.GenerationEvent(sequence=sequence, delta=delta))
    assert s.GenerateStreamResponse.FromString(response) == expected
    assert s.AttachGenerationResponse.FromString(response).event == expected.event


@given(st.lists(deltas, min_size=1, max_size=8))
def test_merging_loses_nothing_and_keeps_sequences_at_entry_boundaries(waiting: list[g.Delta]) -> None:
    items, sequence = [], 0
    for delta in waiting:
        sequence += len(delta.token_ids)
        items.append(item(sequence, delta))
    events = [s.GenerateStreamResponse.FromString(response).event for response in responses.deltas(items)]
    boundaries = {one.sequence for one in items}
    assert all(event.sequence in boundaries for event in events)
    assert events[-1].sequence == sequence
    for index in range(4):
        assert [t for e in events if e.delta.index == index for t in e.delta.token_ids] == [
            t for d in waiting if d.index == index for t in d.token_ids
        ]
        assert "".join(e.delta.text for e in events if e.delta.index == index) == "".join(
            d.text for d in waiting if d.index == index
        )


def test_server_timing_is_for_people() -> None:
    times = g.Timings()
    times.hops.add(kind=g.HOP_KIND_QUEUE_WAIT).duration.FromMicroseconds(1500)
    times.total.FromMicroseconds(1500)
    assert responses.server_timing(times) == "queue_wait;dur=1.500, total;dur=1.500"

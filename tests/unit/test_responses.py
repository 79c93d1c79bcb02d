"""What readers are sent: bytes that are put together by hand must be what protobuf would write."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from gateway.core import responses
from gateway.grpc import generation_servicer
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


def test_merged_deltas_stay_below_what_plain_stubs_take() -> None:
    # As a reader that attaches gets them: a page of entries, each with the log probabilities of many tokens.
    candidates = [g.Logprob(token_id=number, logprob=-1.0, rank=number, text="token") for number in range(1000)]
    items = [
        item(sequence, g.Delta(text="a", token_ids=[sequence], logprobs=[g.TokenLogprobs(candidates=candidates)]))
        for sequence in range(1, 513)
    ]
    assert sum(len(one.entry.delta) for one in items if one.entry) > 8 * 1024 * 1024
    written = list(responses.deltas(items))
    assert max(map(len, written)) < 2 * 1024 * 1024
    events = [s.GenerateStreamResponse.FromString(response).event for response in written]
    assert [token for event in events for token in event.delta.token_ids] == list(range(1, 513))
    assert events[-1].sequence == 512


def test_timings_of_many_lost_attempts_leave_room_for_the_rest_of_the_metadata() -> None:
    times = g.Timings()
    for attempt in range(200):
        times.hops.add(kind=g.HOP_KIND_LOST_ATTEMPT, attempt=attempt + 1).duration.FromMicroseconds(1_234_567)
    sent: list[tuple[str, bytes | str]] = []
    generation_servicer._set_trailers(SimpleNamespace(set_trailing_metadata=sent.extend), times, None)
    assert sum(len(name) + len(value) for name, value in sent) < 5_500
    times = g.Timings()
    times.hops.add(kind=g.HOP_KIND_PREFILL)
    generation_servicer._set_trailers(SimpleNamespace(set_trailing_metadata=sent.extend), times, None)
    assert [name for name, _ in sent][-2:] == ["tokenrelay-timings-bin", "server-timing"]

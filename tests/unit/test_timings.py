import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenrelay.store.v1 import store_pb2
from tokenrelay.timings import timings
from tokenrelay.v1 import generation_pb2 as g

WHOLE = store_pb2.Timeline(
    received_us=1_000,
    enqueue_us=1_100,
    submitted_us=1_300,
    claimed_us=2_000,
    dispatched_us=2_500,
    queued_us=2_600,
    scheduled_us=2_700,
    first_token_us=4_000,
    last_token_us=9_000,
    first_logged_us=4_200,
)


def hops(times: g.Timings) -> dict[str, int]:
    return {
        g.HopKind.Name(hop.kind).removeprefix("HOP_KIND_").lower() + (f"_{hop.attempt}" if hop.attempt > 1 else ""): (
            hop.duration.ToMicroseconds()
        )
        for hop in times.hops
    }


def test_every_stretch_is_a_hop() -> None:
    times = timings(WHOLE, 9_300, 9_500)
    assert hops(times) == {
        "receive": 100,
        "enqueue": 200,
        "queue_wait": 700,
        "claim": 500,
        "dispatch": 100,
        "engine_queue": 100,
        "prefill": 1_300,
        "decode": 5_000,
        "append": 300,
        "relay": 200,
    }
    assert times.total.ToMicroseconds() == 8_500
    assert times.time_to_first_token.ToMicroseconds() == 3_200


def test_a_detached_one_ends_at_its_terminal_record() -> None:
    times = timings(WHOLE, 9_300)
    assert "relay" not in hops(times)
    assert times.total.ToMicroseconds() == 8_300


def test_lost_attempts_and_takeovers_are_hops_of_their_own() -> None:
    timeline = store_pb2.Timeline()
    timeline.CopyFrom(WHOLE)
    timeline.lost_attempts.add(claimed_us=1_400, appended_us=1_700)
    timeline.lost_attempts.add(claimed_us=1_800, appended_us=1_800)
    found = hops(timings(timeline, 9_300))
    assert found["queue_wait"] == 100
    assert (found["lost_attempt"], found["takeover_2"]) == (300, 100)
    assert (found["lost_attempt_2"], found["takeover_3"]) == (0, 200)
    assert found["claim_3"] == 500
    assert sum(found.values()) == 8_300


def test_what_ended_in_the_queue_has_only_the_hops_before() -> None:
    timeline = store_pb2.Timeline(received_us=1_000, enqueue_us=1_100, submitted_us=1_300)
    assert hops(timings(timeline, 9_300)) == {"receive": 100, "enqueue": 200, "queue_wait": 8_000}


@given(st.lists(st.integers(1, 10**6), min_size=13, max_size=13))
@pytest.mark.filterwarnings("default")
def test_hops_add_up_whatever_the_clocks_say(instants: list[int]) -> None:
    names = [field.name for field in store_pb2.Timeline.DESCRIPTOR.fields if field.name != "lost_attempts"]
    timeline = store_pb2.Timeline()
    for name, instant in zip(names, instants[:10], strict=True):
        setattr(timeline, name, instant)
    timeline.lost_attempts.add(claimed_us=instants[10], appended_us=instants[11])
    times = timings(timeline, instants[12])
    assert all(hop.duration.ToMicroseconds() >= 0 for hop in times.hops)
    assert sum(hop.duration.ToMicroseconds() for hop in times.hops) == times.total.ToMicroseconds()
    assert times.total.ToMicroseconds() <= max(0, instants[12] - timeline.received_us)

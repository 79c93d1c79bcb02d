from hypothesis import given
from hypothesis import strategies as st

from tokenrelay.clock import WINDOW_NS, PeerClock

trips = st.tuples(st.integers(0, 10**9), st.integers(0, 10**7), st.integers(0, 10**7))


@given(offset=st.integers(-(10**18), 10**18), exchanges=st.lists(trips, min_size=1, max_size=20))
def test_the_error_is_at_most_half_the_fastest_round_trip(offset: int, exchanges: list[tuple[int, int, int]]) -> None:
    clock, now = PeerClock(), 0
    for gap, there, back in exchanges:
        asked = now + gap
        clock.observe(asked, asked + there + offset, asked + there + back)
        now = asked + there + back
    fastest = min(there + back for _, there, back in exchanges)
    assert abs(clock.to_peer(now) - (now + offset)) <= fastest // 2 + 1
    assert abs(clock.to_ours(clock.to_peer(now)) - now) <= 1


def test_one_way_messages_bound_it_from_one_side() -> None:
    clock = PeerClock()
    for sent, delay in ((1000, 50), (2000, 5), (3000, 90)):
        clock.observe(None, sent + 7_000, sent + delay)
    assert clock.to_peer(10_000) == 17_000 - 5, "the fastest message counts"


def test_a_clock_that_was_set_is_followed_at_once() -> None:
    clock = PeerClock()
    clock.observe(100, 1_000_100, 102)
    clock.observe(200, 5_000_200, 202)
    assert clock.to_peer(300) == 5_000_299


def test_drift_is_followed_after_two_windows() -> None:
    clock = PeerClock()
    clock.observe(0, 1_000, 10)
    for number in range(1, 4):
        at = number * (WINDOW_NS + 1_000)
        clock.observe(at, at + 1_000 - number, at + 10)
    assert clock.to_peer(0) <= 1_000 - 2

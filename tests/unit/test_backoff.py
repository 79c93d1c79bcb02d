"""Delays between tries."""

from tokenrelay.backoff import Backoff


def test_delays_double_up_to_the_longest_and_each_is_shortened_by_half_at_most() -> None:
    backoff = Backoff(first=1.0, longest=5.0)
    for turn in (1.0, 2.0, 4.0, 5.0, 5.0):
        assert turn / 2 <= backoff.next_delay() <= turn


def test_two_who_wait_do_not_wait_alike() -> None:
    one, other = Backoff(1.0, 60.0), Backoff(1.0, 60.0)
    assert [one.next_delay() for _ in range(10)] != [other.next_delay() for _ in range(10)]


def test_it_starts_again() -> None:
    backoff = Backoff(0.02, 0.5)
    for _ in range(10):
        backoff.next_delay()
    backoff.reset()
    assert backoff.next_delay() <= 0.02


def test_it_goes_on_for_ever() -> None:
    backoff = Backoff(0.025, 2.0)
    for _ in range(5000):
        assert backoff.next_delay() <= 2.0


def test_a_first_delay_above_the_longest_is_bounded_too() -> None:
    assert Backoff(first=10.0, longest=1.0).next_delay() <= 1.0

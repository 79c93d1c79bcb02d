"""Where a sweep saturates."""

from dataclasses import replace

import pytest

from bench.load.plan import OfferedLoad
from bench.load.workload import Workload
from bench.results import figures, saturation
from bench.results.figures import GoodputLimits, Point, Quantiles, Served

EMPTY = figures.point(OfferedLoad(Workload()), [], GoodputLimits(1, 1), [], Served())


def closed(*points: tuple[int, float, float], **fields: object) -> list[Point]:
    """Points of concurrency, tokens a second, and time to first token."""
    return [
        replace(EMPTY, answered=1, concurrency=users, tokens_per_s=speed, ttft_ms=Quantiles(wait), **fields)  # type: ignore[arg-type]
        for users, speed, wait in points
    ]


def opened(*points: tuple[float, float, float]) -> list[Point]:
    """Points of rate, arrivals and answers a second."""
    return [replace(EMPTY, rate=rate, arrived_per_s=came, delivered_per_s=went) for rate, came, went in points]


def test_flat_throughput_with_a_climbing_first_token_is_saturation() -> None:
    points = closed((1, 100, 10), (4, 390, 11), (16, 1000, 14), (64, 1050, 90), (128, 1040, 200))
    at, why = saturation.closed_loop(points)
    assert at == 16
    assert "1,000 to 1,050 tokens/s" in why
    assert "14 to 90 ms" in why
    assert saturation.closed_loop(points[::-1]) == (at, why)


def test_it_is_the_first_point_beyond_which_nothing_is_gained() -> None:
    at, _ = saturation.closed_loop(closed((1, 1000, 10), (2, 1000, 20), (4, 1000, 40)))
    assert at == 1


@pytest.mark.parametrize(
    "points",
    [
        closed((1, 100, 10), (4, 390, 11), (16, 1000, 14)),  # still grows
        closed((1, 100, 10), (4, 101, 50), (16, 400, 60)),  # a dent that a later point makes up for
        closed((16, 1000, 14), (20, 1010, 90)),  # not nearly twice the users
    ],
)
def test_a_sweep_that_still_gains_has_not_saturated(points: list[Point]) -> None:
    at, why = saturation.closed_loop(points)
    assert at is None
    assert "not reached" in why


def test_flat_throughput_alone_is_not_saturation() -> None:
    at, why = saturation.closed_loop(closed((8, 1000, 10), (16, 1000, 10)))
    assert at is None
    assert "does not climb" in why


def test_too_little_to_tell() -> None:
    assert saturation.closed_loop(closed((8, 1000, 10)))[0] is None
    unanswered = [replace(point, answered=0) for point in closed((8, 0, 0), (16, 0, 0))]
    assert saturation.closed_loop(unanswered) == (None, "not to be told: it takes two points with answers")


def test_what_was_at_its_limit_is_named() -> None:
    points = closed((8, 1000, 10), (16, 1000, 30), cores={"gateway": 0.97, "redis": 0.2})
    assert "cores in use there: gateway 0.97" in saturation.closed_loop(points)[1]
    assert "the engine runs 8 at a time" in saturation.closed_loop(points, slots=8)[1]
    assert "at a time" not in saturation.closed_loop(points, slots=16)[1]
    points = [replace(point, client_is_the_limit=True) for point in points]
    assert "the client was at its limit" in saturation.closed_loop(points)[1]


def test_an_open_loop_saturates_where_deliveries_stay_behind_for_good() -> None:
    at, why = saturation.open_loop(opened((1, 1, 0.8), (10, 10, 9.9), (20, 20, 15), (40, 40, 15)))
    assert at == 20
    assert "20.0 arrive a second and 15.0 are delivered" in why
    assert saturation.open_loop(opened((10, 10, 10), (20, 21, 20)))[0] is None


def test_each_length_is_a_sweep_of_its_own() -> None:
    short, long = closed((1, 10, 1), (2, 10, 2)), closed((1, 10, 1), (2, 20, 2), input_tokens=999)
    found = saturation.find([*long, *short])
    assert [(one.input_tokens, one.at) for one in found] == [(8, 1), (999, None)]
    assert saturation.find(opened((1, 1, 0)))[0].at == 1

"""What the load generator makes of samples."""

import pytest

from bench.load.measuring import Sample
from bench.load.plan import OfferedLoad
from bench.load.workload import Workload
from bench.results import figures
from bench.results.figures import GoodputLimits, Quantiles, Served

LIMITS = GoodputLimits(ttft_ms=100.0, tpot_ms=10.0)


def sample(due: float = 0.0, first: float = 0.05, gap: float = 0.005, chunks: int = 3, **fields: object) -> Sample:
    """An answer with one token a chunk, at even distances."""
    arrived = [(due + first + number * gap, 1) for number in range(chunks)]
    values = {"ended": arrived[-1][0] + 0.001, **fields}
    return Sample(due, arrived, **values)  # type: ignore[arg-type]


def test_quantiles_are_values_that_were_seen() -> None:
    assert figures.quantiles(range(1, 101)) == Quantiles(50, 90, 95, 99)
    assert figures.quantiles([3.0, 1.0, 2.0]) == Quantiles(2.0, 3.0, 3.0, 3.0)
    assert figures.quantiles([7.0]) == Quantiles(7.0, 7.0, 7.0, 7.0)
    assert figures.quantiles([]) == Quantiles()


def test_times_of_an_answer() -> None:
    one = Sample(10.0, [(10.2, 1), (10.3, 3), (10.6, 2)], ended=10.7)
    assert figures.ttft_ms(one) == pytest.approx(200)
    assert figures.gaps_ms(one) == pytest.approx([100, 300])
    assert figures.tpot_ms(one) == pytest.approx(400 / 5)
    assert figures.e2e_ms(one) == pytest.approx(700)
    assert figures.tpot_ms(Sample(0.0, [(1.0, 1)], ended=1.0)) == 0


@pytest.mark.parametrize(
    ("first", "gap", "good"), [(0.05, 0.005, True), (0.15, 0.005, False), (0.05, 0.02, False), (0.0999, 0.00999, True)]
)
def test_a_good_answer_keeps_both_limits(first: float, gap: float, good: bool) -> None:
    assert figures.is_good(sample(first=first, gap=gap), LIMITS) is good


def test_a_point_counts_whole_answers_and_names_the_others() -> None:
    hops = {"prefill": 30.0, "decode": 10.0, "relay": 1.0}
    samples = [
        sample(0.0, hops=hops, cached_tokens=4),
        sample(1.0, first=0.5, hops={"prefill": 495.0, "decode": 5.0}),
        Sample(0.5, ended=0.6, refusal="QUEUE_FULL"),
        Sample(1.2, [(1.3, 1)], ended=2.0, refusal="1 tokens instead of 3"),
    ]
    served = Served({"gateway": 0.5, "redis": 0.25}, {"gateway": 3 * 2**20}, 0.25, 0.5, 100.0, 200.0)
    point = figures.point(OfferedLoad(Workload(8, 3), concurrency=2, rounds=2), samples, LIMITS, [0.5, 1.9], served)
    assert (point.requests, point.answered, point.tokens) == (4, 2, 6)
    assert point.refusals == {"QUEUE_FULL": 1, "1 tokens instead of 3": 1}
    assert point.seconds == pytest.approx(2.0)
    assert (point.tokens_per_s, point.requests_per_s, point.good_per_s) == pytest.approx((3.0, 1.0, 0.5))
    assert point.good_share == pytest.approx(0.25)
    assert point.cached_share == pytest.approx(4 / 16)
    assert point.hops_ms == {
        "prefill": Quantiles(30.0, 495.0, 495.0, 495.0),
        "decode": Quantiles(5.0, 10.0, 10.0, 10.0),
        "relay": Quantiles(1.0, 1.0, 1.0, 1.0),
    }
    assert point.overhead_ms.p50 == pytest.approx(11.0)
    assert (point.first_overhead_ms.p50, point.first_overhead_ms.p99) == pytest.approx((5.0, 20.0))
    assert point.cpu_us_per_token == pytest.approx({"client": 4e5, "gateway": 0.5e6 / 6, "redis": 0.25e6 / 6})
    assert point.cores["gateway"] == pytest.approx(0.25)
    assert point.memory_mib == {"gateway": 3.0}
    assert point.client_cores == pytest.approx(0.95)
    assert point.client_is_the_limit
    assert (point.kv_cache_share, point.prefix_hit_share, point.gpu_used_mib) == (0.25, 0.5, 100.0)


def test_with_a_ramp_what_counts_is_the_time_in_which_all_users_are_there() -> None:
    """Two users with two requests each, of 1 s and ten tokens; the second one begins half a second later."""
    samples = [sample(due, first=0.1, gap=0.1, chunks=10, ended=due + 1.0) for user in (0.0, 0.5) for due in (user, user + 1.0)]
    load = OfferedLoad(Workload(8, 10), concurrency=2, rounds=2, ramp=0.5)
    assert figures.steady(load, samples) == pytest.approx((0.5, 2.0))
    point = figures.point(load, samples, LIMITS, [0.1], Served({"gateway": 0.4}))
    assert point.requests == 3
    assert point.tokens_per_s == pytest.approx(20, rel=0.1)
    assert point.cpu_us_per_token["gateway"] == pytest.approx(0.4e6 / 40)


def test_a_point_without_an_answer_has_no_figures_but_its_refusals() -> None:
    samples = [Sample(0.0, ended=1.0, refusal="UNAVAILABLE")]
    point = figures.point(OfferedLoad(Workload(), concurrency=1, rounds=1), samples, LIMITS, [0.1], Served())
    assert point.refusals == {"UNAVAILABLE": 1}
    assert (point.tokens, point.tokens_per_s, point.ttft_ms, point.hops_ms) == (0, 0.0, Quantiles(), {})
    assert figures.point(OfferedLoad(Workload()), [], LIMITS, [], Served()).requests == 0


def test_an_open_loop_is_judged_by_its_second_half() -> None:
    """Ten arrivals in ten seconds; each answer takes four seconds, so six end while requests arrive."""
    load = OfferedLoad(Workload(), rate=1.0, seconds=10.0)
    samples = [sample(float(due), first=1.0, ended=due + 4.0) for due in range(10)]
    assert figures.second_half(load, samples) == pytest.approx((1.0, 1.0))
    samples[3].refusal = "QUEUE_FULL"
    assert figures.second_half(load, samples) == pytest.approx((1.0, 0.8))
    assert figures.second_half(OfferedLoad(Workload(), concurrency=1), samples) == (0.0, 0.0)


def test_tokens_that_came_together_are_one_message() -> None:
    merged = Sample(0.0, [(0.1, 1), (0.2, 5), (0.3, 3)], ended=0.4)
    load = OfferedLoad(Workload(8, 9), concurrency=1, rounds=1)
    assert figures.point(load, [merged], LIMITS, [0.1], Served()).tokens_per_message == pytest.approx(3)

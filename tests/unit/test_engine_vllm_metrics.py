"""Several amounts that are observed at once count as if they came one by one."""

import warnings
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Histogram

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's and vLLM's own, when they are imported
    from vllm.v1.metrics.loggers import PrometheusStatLogger
    from vllm.v1.metrics.stats import IterationStats

    from engine_service.engines.vllm.stat_logger import StepStatLogger, observe

BUCKETS = (0.01, 0.025, 0.05)
AMOUNTS = (0.001, 0.01, 0.010001, 0.02, 0.025, 0.05, 7.0, 0.0)


def test_amounts_observed_at_once_count_as_one_by_one() -> None:
    together, alone = CollectorRegistry(), CollectorRegistry()
    observe(Histogram("a", "-", registry=together, buckets=BUCKETS), AMOUNTS)
    histogram = Histogram("a", "-", registry=alone, buckets=BUCKETS)
    for amount in AMOUNTS:
        histogram.observe(amount)
    for bound in ("0.01", "0.025", "0.05", "+Inf"):
        counted = together.get_sample_value("a_bucket", {"le": bound})
        assert counted == alone.get_sample_value("a_bucket", {"le": bound})
    assert together.get_sample_value("a_sum") == alone.get_sample_value("a_sum")
    assert together.get_sample_value("a_count") == len(AMOUNTS)


def test_a_step_without_tokens_counts_nothing() -> None:
    registry = CollectorRegistry()
    observe(Histogram("a", "-", registry=registry, buckets=BUCKETS), ())
    assert registry.get_sample_value("a_count") == 0


def test_a_step_is_counted_once_and_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's own logger finds no latencies left to count; a logger after it finds them all."""
    left: list[list[float]] = []
    monkeypatch.setattr(
        PrometheusStatLogger, "record", lambda _, __, stats, **___: left.append(list(stats.inter_token_latencies_iter))
    )
    registry = CollectorRegistry()
    logger: Any = StepStatLogger.__new__(StepStatLogger)
    logger.histogram_inter_token_latency = {0: Histogram("a", "-", registry=registry, buckets=BUCKETS)}
    stats = IterationStats()
    stats.inter_token_latencies_iter = list(AMOUNTS)
    logger.record(None, stats)
    assert left == [[]]
    assert stats.inter_token_latencies_iter == list(AMOUNTS)
    assert registry.get_sample_value("a_count") == len(AMOUNTS)

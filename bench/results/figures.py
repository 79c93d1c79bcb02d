"""What a point came to, from the samples of its requests. Pure."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from bench.load.measuring import Sample
from bench.load.plan import OfferedLoad

PERCENTILES = (50, 90, 95, 99)
CLIENT_LIMIT = 0.9  # cores: an asyncio client has one


@dataclass(frozen=True)
class Quantiles:
    """A distribution's quantiles; all 0 if there was nothing to measure."""

    p50: float = 0.0
    p90: float = 0.0
    p95: float = 0.0
    p99: float = 0.0


@dataclass(frozen=True)
class GoodputLimits:
    """What a request must keep to be counted as good, in milliseconds."""

    ttft_ms: float
    tpot_ms: float


@dataclass(frozen=True)
class Served:
    """What the serving side told while a point lasted; None: not known.

    Attributes:
        cpu_seconds: by process group.
        memory_bytes: resident, by process group, the highest seen.
        kv_cache_share: the highest used share of the KV cache's blocks, 0 to 1.
        prefix_hit_share: prompt tokens found in the prefix cache per prompt token looked up.
        gpu_used_mib: of all GPUs together, at the end; the allocator gives nothing back, so that is the highest.
    """

    cpu_seconds: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: Mapping[str, int] = field(default_factory=dict)
    kv_cache_share: float | None = None
    prefix_hit_share: float | None = None
    gpu_used_mib: float | None = None
    gpu_total_mib: float | None = None


@dataclass(frozen=True)
class Point:
    """One line of the results. Milliseconds, seconds and tokens where the name does not say otherwise.

    Attributes:
        concurrency: 0 in an open loop.
        rate: arrivals a second that were asked for; 0 in a closed loop.
        seconds: from the first request's due instant to the last one's end; with a ramp, from its end to the instant at
            which the first user has no more requests. Tokens are those that came in this time; the other figures but CPU and
            memory are of the requests that were due in it.
        answered: requests with a whole answer; all figures but refusals are of these.
        arrived_per_s: open loop: arrivals in the second half of the time in which requests arrive.
        delivered_per_s: open loop: whole answers that ended in that half. Less, if a backlog grows.
        tokens_per_message: how many came at a time: the busier the servers, the more, and the less each costs.
        inter_token_ms: gaps between what arrived of one stream.
        tpot_ms: from an answer's first token to its last, per token after the first.
        overhead_ms: what a whole answer took beyond the engine's own time.
        first_overhead_ms: what its first token did.
        client_cores: CPU seconds a second of the busiest client process.
    """

    input_tokens: int
    output_tokens: int
    concurrency: int
    rate: float
    seconds: float
    requests: int
    answered: int
    refusals: dict[str, int]
    tokens: int
    tokens_per_s: float
    requests_per_s: float
    arrived_per_s: float
    delivered_per_s: float
    tokens_per_message: float
    ttft_ms: Quantiles
    inter_token_ms: Quantiles
    tpot_ms: Quantiles
    e2e_ms: Quantiles
    overhead_ms: Quantiles
    first_overhead_ms: Quantiles
    hops_ms: dict[str, Quantiles]
    good_per_s: float
    good_share: float
    cached_share: float
    cpu_us_per_token: dict[str, float]
    cores: dict[str, float]
    memory_mib: dict[str, float]
    client_cores: float
    client_is_the_limit: bool
    kv_cache_share: float | None
    prefix_hit_share: float | None
    gpu_used_mib: float | None
    gpu_total_mib: float | None


def quantiles(values: Iterable[float]) -> Quantiles:
    """Returns the nearest-rank quantiles: each is a value that was seen."""
    ordered = sorted(values)
    if not ordered:
        return Quantiles()
    return Quantiles(*(ordered[math.ceil(len(ordered) * percent / 100) - 1] for percent in PERCENTILES))


def point(
    load: OfferedLoad, samples: Sequence[Sample], limits: GoodputLimits, client_cpu_seconds: Sequence[float], served: Served
) -> Point:
    """Returns a point's figures.

    Args:
        load: what was offered.
        samples: of all requests, not one less.
        limits: what makes an answer a good one.
        client_cpu_seconds: of each client process.
        served: what the serving side told.
    """
    first, last = span(samples)
    lasted = last - first
    given = sum(sample.tokens for sample in samples if not sample.refusal)
    arrived, delivered = second_half(load, samples)
    cpu_seconds = {"client": sum(client_cpu_seconds), **served.cpu_seconds}
    client_cores = _per(max(client_cpu_seconds, default=0.0), lasted)
    begin, end = steady(load, samples)
    seconds = end - begin
    tokens = tokens_between(samples, begin, end)
    samples = [sample for sample in samples if begin <= sample.due <= end]
    answered = [sample for sample in samples if not sample.refusal]
    good = sum(is_good(sample, limits) for sample in answered)
    return Point(
        input_tokens=load.workload.input_tokens,
        output_tokens=load.workload.output_tokens,
        concurrency=load.concurrency,
        rate=load.rate,
        seconds=seconds,
        requests=len(samples),
        answered=len(answered),
        refusals=dict(Counter(sample.refusal for sample in samples if sample.refusal)),
        tokens=tokens,
        tokens_per_s=_per(tokens, seconds),
        requests_per_s=_per(len(answered), seconds),
        arrived_per_s=arrived,
        delivered_per_s=delivered,
        tokens_per_message=_per(sum(sample.tokens for sample in answered), sum(len(sample.chunks) for sample in answered)),
        ttft_ms=quantiles(map(ttft_ms, answered)),
        inter_token_ms=quantiles(gap for sample in answered for gap in gaps_ms(sample)),
        tpot_ms=quantiles(tpot_ms(sample) for sample in answered if sample.tokens > 1),
        e2e_ms=quantiles(map(e2e_ms, answered)),
        overhead_ms=quantiles(e2e_ms(sample) - sample.engine_ms for sample in answered if sample.engine_ms),
        first_overhead_ms=quantiles(ttft_ms(sample) - sample.engine_first_ms for sample in answered if sample.engine_first_ms),
        hops_ms=_hops(answered),
        good_per_s=_per(good, seconds),
        good_share=_per(good, len(samples)),
        cached_share=_per(sum(sample.cached_tokens for sample in answered), len(answered) * load.workload.input_tokens),
        cpu_us_per_token={group: _per(1e6 * used, given) for group, used in cpu_seconds.items()},
        cores={group: _per(used, lasted) for group, used in cpu_seconds.items()},
        memory_mib={group: used / 2**20 for group, used in served.memory_bytes.items()},
        client_cores=client_cores,
        client_is_the_limit=client_cores >= CLIENT_LIMIT,
        kv_cache_share=served.kv_cache_share,
        prefix_hit_share=served.prefix_hit_share,
        gpu_used_mib=served.gpu_used_mib,
        gpu_total_mib=served.gpu_total_mib,
    )


def span(samples: Sequence[Sample]) -> tuple[float, float]:
    """Returns the first request's due instant and the last one's end."""
    return min((sample.due for sample in samples), default=0.0), max((sample.ended for sample in samples), default=0.0)


def steady(load: OfferedLoad, samples: Sequence[Sample]) -> tuple[float, float]:
    """Returns when all users are there, from when to when; without a ramp, all the time."""
    begin, end = span(samples)
    if load.ramp and samples:
        begin += load.ramp
        last_of_users = samples[load.rounds - 1 :: load.rounds]  # a user's requests follow one another
        end = max(begin, min(sample.ended for sample in last_of_users))
    return begin, end


def tokens_between(samples: Sequence[Sample], begin: float, end: float) -> int:
    """Returns how many tokens of whole answers came in some time."""
    chunks = (chunk for sample in samples if not sample.refusal for chunk in sample.chunks)
    return sum(tokens for at, tokens in chunks if begin <= at <= end)


def ttft_ms(sample: Sample) -> float:
    """Returns the time to first token, from when the request was due."""
    return 1000 * (sample.chunks[0][0] - sample.due)


def e2e_ms(sample: Sample) -> float:
    return 1000 * (sample.ended - sample.due)


def gaps_ms(sample: Sample) -> list[float]:
    """Returns the times between what arrived, one less than arrivals."""
    instants = [instant for instant, _ in sample.chunks]
    return [1000 * (later - earlier) for earlier, later in pairwise(instants)]


def tpot_ms(sample: Sample) -> float:
    """Returns the time per output token after the first; 0 for a single one."""
    return _per(1000 * (sample.chunks[-1][0] - sample.chunks[0][0]), sample.tokens - 1)


def is_good(sample: Sample, limits: GoodputLimits) -> bool:
    """Returns whether a whole answer kept the limits."""
    return ttft_ms(sample) <= limits.ttft_ms and tpot_ms(sample) <= limits.tpot_ms


def second_half(load: OfferedLoad, samples: Sequence[Sample]) -> tuple[float, float]:
    """Returns arrivals and whole answers a second in the second half of an open loop's arrivals; (0, 0) of a closed one.

    The first half is left out, since until as many answers end as requests arrive it takes one answer's time.
    """
    if not load.is_open or not samples:
        return 0.0, 0.0
    begin = min(sample.due for sample in samples)
    half, end = begin + load.seconds / 2, begin + load.seconds
    arrived = sum(half <= sample.due < end for sample in samples)
    delivered = sum(half <= sample.ended < end and not sample.refusal for sample in samples)
    return 2 * arrived / load.seconds, 2 * delivered / load.seconds


def _hops(answered: Sequence[Sample]) -> dict[str, Quantiles]:
    names = dict.fromkeys(name for sample in answered for name in sample.hops)
    return {name: quantiles(sample.hops[name] for sample in answered if name in sample.hops) for name in names}


def _per(amount: float, of: float) -> float:
    return amount / of if of else 0.0

"""What the load generator asks for, and when."""

import itertools
import random
import time
from dataclasses import replace

import pytest

from bench.load import plan
from bench.load.measuring import Refused, Sample, arrivals, closed_loop, open_loop
from bench.load.plan import OfferedLoad
from bench.load.workload import Request, Workload
from bench.run.points import planned
from bench.run.settings import BenchSettings


def prompts(workload: Workload, count: int, stream: int = 0) -> list[tuple[int, ...]]:
    requests = itertools.islice(workload.requests(stream), count)
    return [request.prompt for request in requests if isinstance(request.prompt, tuple)]


@pytest.mark.parametrize("shared", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("length", [1, 7, 64])
def test_prompts_are_as_long_as_asked_and_share_their_beginning_alone(length: int, shared: float) -> None:
    workload = Workload(length, 3, shared, 50_000)
    found = [*prompts(workload, 3), *prompts(workload, 3, stream=1)]
    prefix = round(length * shared)
    assert {len(prompt) for prompt in found} == {length}
    assert len({prompt[:prefix] for prompt in found}) == 1
    assert len({prompt[prefix:] for prompt in found}) == (len(found) if length - prefix else 1)
    assert all(256 <= token < 50_000 for prompt in found for token in prompt)


def test_the_same_seed_gives_the_same_prompts_and_another_one_others() -> None:
    assert prompts(Workload(seed=1), 5) == prompts(Workload(seed=1), 5)
    assert not set(prompts(Workload(seed=1), 5)) & set(prompts(Workload(seed=2), 5))


def test_a_small_vocabulary_is_enough() -> None:
    assert all(token < 10 for prompt in prompts(Workload(vocabulary_size=10), 5) for token in prompt)


def test_a_prompt_as_text_has_four_characters_a_token_and_shares_its_beginning() -> None:
    first, second = (request.prompt for request in itertools.islice(Workload(30, 3, 0.5, 50_000, text=True).requests(), 2))
    assert isinstance(first, str)
    assert isinstance(second, str)
    assert len(first) == len(second) == 120
    assert first[:60] == second[:60]
    assert first[60:] != second[60:]


async def test_with_a_ramp_users_begin_one_after_the_other() -> None:
    started = time.monotonic()
    samples = await closed_loop(FakeTarget(), Workload(4, 2), 4, 2, ramp=0.2)
    begun = [samples[first].due - started for first in range(0, 8, 2)]
    # None before its time; how long after it depends on what else the machine does.
    assert all(instant >= 0.05 * user for user, instant in enumerate(begun))
    assert begun == sorted(begun)


def test_arrivals_are_a_poisson_process() -> None:
    instants = list(arrivals(50.0, 200.0, random.Random(1)))
    gaps = [later - earlier for earlier, later in itertools.pairwise(instants)]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert instants == sorted(instants)
    assert instants[0] > 0
    assert instants[-1] < 200
    assert mean == pytest.approx(1 / 50, rel=0.05)
    assert deviation == pytest.approx(mean, rel=0.05)  # as an exponential distribution has it
    assert instants == list(arrivals(50.0, 200.0, random.Random(1)))


class FakeTarget:
    """Answers at once; every third request not, or one token short."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    async def run(self, request: Request, sample: Sample) -> None:
        self.requests.append(request)
        if len(self.requests) % 3 == 0:
            raise Refused("QUEUE_FULL")
        sample.add(request.output_tokens - (len(self.requests) % 3 == 1))

    async def close(self) -> None:
        pass


async def test_a_closed_loop_sends_each_users_requests_and_counts_what_is_not_whole() -> None:
    target, workload = FakeTarget(), Workload(8, 4)
    ended: list[Sample] = []
    samples = await closed_loop(target, workload, 3, 4, first_stream=10, progress=ended.append)
    assert len(samples) == len(ended) == 12
    assert sorted(sample.refusal for sample in samples) == [""] * 4 + ["3 tokens instead of 4"] * 4 + ["QUEUE_FULL"] * 4
    wanted = [prompt for stream in (10, 11, 12) for prompt in prompts(workload, 4, stream)]
    assert sorted(wanted) == sorted(request.prompt for request in target.requests if isinstance(request.prompt, tuple))


async def test_an_open_loop_sends_at_its_instants_whatever_has_come_back() -> None:
    target, workload = FakeTarget(), Workload(8, 4, seed=5)
    samples = await open_loop(target, workload, 1000.0, 0.05, first_stream=2)
    wanted = list(arrivals(1000.0, 0.05, random.Random("5-2")))
    began = samples[0].due - wanted[0]
    assert [sample.due - began for sample in samples] == pytest.approx(wanted)
    assert len(target.requests) == len(wanted) > 10


def test_a_sweep_has_each_concurrency_with_each_length_and_prompts_of_its_own() -> None:
    settings = BenchSettings(concurrency=(4, 1), input_tokens=(8, 16), output_tokens=(2,), rounds=3)
    loads = list(planned(settings, 1000))
    offered = [(load.workload.input_tokens, load.concurrency, load.requests) for load in loads]
    assert offered == [(8, 1, 3), (8, 4, 12), (16, 1, 3), (16, 4, 12)]
    streams = {load.first_stream for load in loads} | {plan.warm_up(load, 1).first_stream for load in loads}
    assert len(streams) == 8
    rates = list(planned(settings.model_copy(update={"rates": (2.0,)}), 1000))
    assert [(load.is_open, load.requests) for load in rates] == [(True, 40)] * 2


def test_client_processes_share_a_point_without_sharing_a_prompt() -> None:
    load = OfferedLoad(Workload(), concurrency=5, rounds=2, first_stream=100)
    parts = plan.shares(load, 3)
    users = [range(part.first_stream, part.first_stream + part.concurrency) for part in parts]
    assert [user for some in users for user in some] == list(range(100, 105))
    assert sum(part.requests for part in parts) == load.requests
    idle = plan.shares(replace(load, concurrency=1), 2)[1]
    assert idle.requests == 0
    rates = plan.shares(OfferedLoad(Workload(), rate=9.0, seconds=1.0), 3)
    assert [(part.rate, part.first_stream) for part in rates] == [(3.0, 0), (3.0, 1), (3.0, 2)]


def test_a_warm_up_is_the_same_load_in_small() -> None:
    closed = plan.warm_up(OfferedLoad(Workload(), concurrency=5, rounds=8), 1)
    opened = plan.warm_up(OfferedLoad(Workload(), rate=5.0, seconds=60.0), 2)
    assert (closed.concurrency, closed.rounds) == (5, 1)
    assert (opened.rate, opened.seconds) == (5.0, 2.0)

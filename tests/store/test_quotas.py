"""What tenants and keys may use: judged before anything is written, reserved once, settled once, and written into a ledger."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.store.conftest import MODEL, Bench
from tokenrelay.errors import QuotaExceededError
from tokenrelay.identity.quotas import Allowance, Quota
from tokenrelay.store import keys
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import Accepted, Claim, Finish, Requeue
from tokenrelay.v1 import generation_pb2

TENANT, KEY = "acme", "k" * 12
JOB = store_pb2.Job(model=MODEL, n=1, tenant=TENANT, key_id=KEY)
ACCOUNT, KEY_ACCOUNT = f"{keys.prefix(0)}tenant:{TENANT}", f"{keys.prefix(0)}quota:{TENANT}:{KEY}"


def allowance(tenant: Quota | None = None, key: Quota | None = None, prompt: int = 10, most: int | None = 20) -> Allowance:
    return Allowance(tenant or Quota(), key or Quota(), prompt, most)


async def submit(bench: Bench, allowed: Allowance | None = None, **changes: Any) -> Accepted:
    return await bench.submit_whole(job=JOB, allowance=allowed or allowance(), **changes)


async def numbers(bench: Bench, account: str = ACCOUNT) -> dict[str, float]:
    found = await bench.client.hgetall(account)
    return {name.decode(): float(value) for name, value in found.items()}  # type: ignore[union-attr]


async def end(bench: Bench, claim: Claim, tokens: int, prompt: int | None = 7, cached: int = 3) -> None:
    """Ends a claimed generation with so many tokens."""
    generation_id = claim.record.generation_id
    if tokens:
        await bench.append(claim, 0, tokens)
    usage = (
        None if prompt is None else generation_pb2.Usage(prompt_tokens=prompt, completion_tokens=tokens, cached_tokens=cached)
    )
    terminal = store_pb2.Terminal(state=generation_pb2.GENERATION_STATE_FINISHED, usage=usage)
    results = await bench.store.attempts.write([], [Finish(generation_id, claim.fence, tokens, terminal)] * 2)
    assert {str(one) for one in results.finished} == {"OK"}  # also when it is repeated


async def ledger(bench: Bench) -> dict[str, int]:
    name = f"{keys.prefix(0)}usage:{TENANT}:{datetime.now(UTC):%Y%m%d}"
    found = await bench.client.hgetall(name)
    return {field.decode().removeprefix(f"{KEY} {MODEL} "): int(value) for field, value in found.items()}  # type: ignore[union-attr]


async def refused(bench: Bench, allowed: Allowance) -> QuotaExceededError:
    before = [await bench.client.hgetall(account) for account in (ACCOUNT, KEY_ACCOUNT)]
    with pytest.raises(QuotaExceededError) as caught:
        await submit(bench, allowed)
    assert [await bench.client.hgetall(account) for account in (ACCOUNT, KEY_ACCOUNT)] == before  # a refusal changes nothing
    return caught.value


async def test_what_is_open_is_reserved_and_what_has_ended_is_settled(bench: Bench) -> None:
    await submit(bench)
    for account in (ACCOUNT, KEY_ACCOUNT):
        assert (await numbers(bench, account)) == {"open": 1, "reserved": 30, f"waiting:{MODEL}": 1}
    claim = await bench.take()
    assert (await numbers(bench))[f"waiting:{MODEL}"] == 0
    await end(bench, claim, 5)
    for account in (ACCOUNT, KEY_ACCOUNT):
        found = await numbers(bench, account)
        assert (found["open"], found["reserved"], found["day_used"], found["month_used"]) == (0, 0, 12, 12)
        assert found[f"answer:{MODEL}"] == 5
    assert await ledger(bench) == {"prompt_tokens": 7, "cached_tokens": 3, "completion_tokens": 5, "ended_3": 1}


async def test_what_never_ran_costs_nothing(bench: Bench) -> None:
    accepted = await submit(bench, allowance(Quota(tokens_per_minute=100)))
    await bench.store.generations.cancel(accepted.generation_id, tenant=TENANT)
    found = await numbers(bench)
    assert (found["open"], found["reserved"], found["day_used"], found[f"waiting:{MODEL}"]) == (0, 0, 0, 0)
    assert found["tokens"] == 100
    assert await ledger(bench) == {"prompt_tokens": 0, "cached_tokens": 0, "completion_tokens": 0, "ended_5": 1}


async def test_a_prompt_that_the_engine_never_counted_costs_what_was_expected(bench: Bench) -> None:
    await submit(bench)
    await end(bench, await bench.take(), 2, prompt=None)
    assert (await ledger(bench))["prompt_tokens"] == 10


async def test_a_repeated_submission_and_a_joined_one_reserve_nothing(bench: Bench) -> None:
    generation_id = keys.new_generation_id(0)
    for _ in range(2):
        await submit(bench, generation_id=generation_id, idempotency_key="k")
    await submit(bench, idempotency_key="k")
    assert (await numbers(bench))["open"] == 1


@pytest.mark.parametrize("scope", ["tenant", "key"])
@pytest.mark.parametrize(
    ("quota", "admitted", "waits"),
    [
        (Quota(concurrent=3), 3, True),
        (Quota(requests_per_minute=3), 3, True),
        (Quota(tokens_per_minute=90), 3, True),
        (Quota(tokens_per_day=90), 3, True),
        (Quota(tokens_per_month=90), 3, True),
        (Quota(queued_percent=1), 100, True),
        (Quota(tokens_per_minute=5), 0, False),
        (Quota(tokens_per_day=5), 0, False),
    ],
    ids=repr,
)
async def test_each_limit_admits_what_it_says(bench: Bench, scope: str, quota: Quota, admitted: int, waits: bool) -> None:
    allowed = allowance(quota) if scope == "tenant" else allowance(None, quota)

    async def try_once() -> bool:
        try:
            await submit(bench, allowed)
        except QuotaExceededError:
            return False
        return True

    assert sum(await asyncio.gather(*(try_once() for _ in range(admitted + 20)))) == admitted
    error = await refused(bench, allowed)
    assert (error.retry_after is not None) == waits
    assert error.subject == (f"tenant:{TENANT}" if scope == "tenant" else f"key:{KEY}")
    assert quota.as_numbers() == {error.metric: error.limit}


async def test_whoever_may_use_little_is_not_refused_for_what_it_only_might_use(bench: Bench) -> None:
    await submit(bench, allowance(Quota(tokens_per_minute=50), most=None))  # 256 are expected of an answer
    assert (await numbers(bench))["reserved"] == 50


async def test_what_an_answer_was_longer_than_expected_is_paid_first(bench: Bench) -> None:
    allowed = allowance(Quota(tokens_per_minute=100), prompt=10, most=None)
    await submit(bench, allowed)
    await end(bench, await bench.take(), 500, prompt=10)
    assert (await numbers(bench))["tokens"] < -300
    error = await refused(bench, allowed)
    assert error.retry_after is not None
    assert error.retry_after > 60 * 3


async def test_the_answers_of_before_are_what_is_expected(bench: Bench) -> None:
    for _ in range(40):
        await submit(bench, allowance(most=None))
        await end(bench, await bench.take(), 4)
    await submit(bench, allowance(most=None))
    assert (await numbers(bench))["reserved"] < 10 + 10


async def test_what_is_left_of_the_tokens_a_minute_is_told(bench: Bench) -> None:
    accepted = await submit(bench, allowance(Quota(tokens_per_minute=100), Quota(tokens_per_minute=1000)))
    assert accepted.tokens_left is not None
    assert (accepted.tokens_left.limit, accepted.tokens_left.left) == (100, 70)


async def test_a_generation_that_is_taken_over_waits_and_stays_open(bench: Bench) -> None:
    await submit(bench)
    claim = await bench.take()
    requeue = Requeue(claim.record.generation_id, claim.fence)
    await bench.store.attempts.requeue(MODEL, [requeue])
    found = await numbers(bench)
    assert (found["open"], found["reserved"], found[f"waiting:{MODEL}"]) == (1, 30, 1)
    await end(bench, await bench.take(), 1)
    assert (await numbers(bench))["open"] == 0


async def test_the_shape_of_the_day_is_that_of_the_calendar(bench: Bench) -> None:
    await submit(bench)
    await end(bench, await bench.take(), 1)
    found = await bench.client.hmget(ACCOUNT, "day", "month")
    assert found == [f"{datetime.now(UTC):%Y%m%d}".encode(), f"{datetime.now(UTC):%Y%m}".encode()]

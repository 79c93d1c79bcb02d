import pytest

from tokenrelay.store import keys


def test_an_id_names_its_shard_and_is_128_random_bits() -> None:
    name = keys.new_generation_id(3)
    assert keys.shard_of(name) == 3
    assert len(name.partition("-")[2]) * 4 == 128
    assert name != keys.new_generation_id(3)


@pytest.mark.parametrize("name", ["", "-", "0", "0-", "x-" + "0" * 32, "0-" + "0" * 31, "0-" + "z" * 32, "²-" + "0" * 32])
def test_what_is_no_id_has_no_shard(name: str) -> None:
    assert keys.shard_of(name) is None


def test_all_keys_of_a_generation_share_a_hash_tag() -> None:
    name = keys.new_generation_id(2)
    assert all(
        "{2}" in key for key in (keys.record(name, 2), keys.log(name, 2), keys.queue(keys.JOBS, "m", 2), keys.depth("m", 2))
    )


def test_an_idempotency_key_always_leads_to_the_same_shard() -> None:
    key_hash = keys.idempotency_hash("k", "")
    assert key_hash != "k"
    assert keys.shard_of_idempotency_key(key_hash, 5) == keys.shard_of_idempotency_key(key_hash, 5)
    shards = {keys.shard_of_idempotency_key(keys.idempotency_hash(str(number), ""), 4) for number in range(100)}
    assert shards == {0, 1, 2, 3}

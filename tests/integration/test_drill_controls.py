"""The checker of drills is itself checked: it must catch what is broken on purpose, and find nothing where all is sound."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bench.processes.ports import free_ports
from deploy.local import plan
from deploy.local.machine import Machine
from deploy.local.settings import StackSettings
from drills import checker, history, load, nemesis
from drills.broken import everysec, scripts
from drills.cluster import Changes, Member
from drills.failpoints import WORKER, Failpoints
from drills.faults.slow_disk import SlowDisk
from drills.faults.tcp_proxy import TcpProxy
from drills.load import Load
from drills.notebook import Wish
from drills.scenario import Drill
from drills.stage import Stage, set_up
from tests.support.waiting import eventually
from tokenrelay.store import keys
from tokenrelay.v1 import generation_pb2

USERS = 4
TOKENS = 200  # a generation lasts for two seconds
CUTS = 12
HANGS_SECONDS = 1.5  # after two, a Redis that asks once a second writes although the disk hangs
MODEL = "simulated-drill"
COMMON = {"TOKENRELAY_LEASE_SECONDS": "0.5", "TOKENRELAY_DISCONNECT_GRACE_SECONDS": "1"}
RUNNING = generation_pb2.GENERATION_STATE_RUNNING
IS_BROKEN = pytest.mark.parametrize("is_broken", [True, False], ids=["broken", "sound"])

Fault = Callable[[Stage], Awaitable[None]]


@IS_BROKEN
async def test_a_write_that_redis_py_repeats_is_caught(tmp_path: Path, is_broken: bool) -> None:
    port = free_ports()
    proxy = await TcpProxy(port + plan.REDIS).start()
    workers = changed_workers(tmp_path, "retries" if is_broken else None)
    workers["worker-1"].environment["TOKENRELAY_REDIS_URL"] = f"redis://127.0.0.1:{proxy.port}/0"

    async def lose_replies(stage: Stage) -> None:
        users = add_users(stage)
        for _ in range(CUTS):
            await until_more_is_read(users, 20)
            stage.note_fault("a lost reply", "worker-1 to redis")
            proxy.to_client.cut_after(0)
            await eventually(lambda: proxy.to_client.is_transparent, "a connection is cut under a reply")

    try:
        found = await violated(tmp_path, lose_replies, workers, port=port)
    finally:
        await proxy.close()
    assert_told("faithful", found, is_broken)


@IS_BROKEN
async def test_a_redis_that_answers_before_the_disk_does_is_caught(tmp_path: Path, is_broken: bool) -> None:
    port, disk = free_ports(), SlowDisk(tmp_path)
    changed = Changes(disk.environment(), command=everysec.command(redis_command(tmp_path, port)) if is_broken else None)

    async def kill_it_while_the_disk_hangs(stage: Stage) -> None:
        users = add_users(stage)
        await until_more_is_read(users, 50)
        stage.note_fault("slow fsync", "redis")
        disk.set_delay(60_000)
        await eventually(lambda: disk.delayed_calls > 0, "an fsync hangs")
        with suppress(AssertionError):  # a sound Redis says nothing more
            await until_more_is_read(users, 100, patience=HANGS_SECONDS)
        killing = asyncio.create_task(nemesis.kill(stage, "redis"))
        await eventually(lambda: stage.cluster.members["redis"].pid is None, "Redis is dead")
        disk.heal()
        await killing
        await stage.cluster.wait_until_served()

    try:
        found = await violated(tmp_path, kill_it_while_the_disk_hangs, {"redis": changed}, port=port)
    finally:
        disk.close()
    assert_told("durable", found, is_broken)


@IS_BROKEN
async def test_ownership_by_the_pending_list_alone_is_caught(tmp_path: Path, is_broken: bool) -> None:
    async def stop_a_worker_until_it_is_succeeded(stage: Stage) -> None:
        await until_more_is_read(add_users(stage), 20)
        owner, owned = some_owner(stage)
        stage.note_fault("SIGSTOP", owner.name)
        owner.signal(signal.SIGSTOP)
        await until_succeeded(stage, owned)
        owner.signal(signal.SIGCONT)
        stage.note_healed("SIGSTOP", owner.name)

    changes = changed_workers(tmp_path, "pending_list" if is_broken else None)
    found = await violated(tmp_path, stop_a_worker_until_it_is_succeeded, changes, workers=2)
    assert_told("fenced", found, is_broken)


@IS_BROKEN
async def test_a_fence_that_is_checked_before_the_write_is_caught(tmp_path: Path, is_broken: bool) -> None:
    points = Failpoints(tmp_path / "failpoints")

    async def stop_a_worker_before_it_writes(stage: Stage) -> None:
        await until_more_is_read(add_users(stage), 20)
        stage.note_fault("failpoint", "worker-before-append")
        points.arm("worker-before-append", signal.SIGSTOP)
        await eventually(lambda: points.hit("worker-before-append"), "a worker is about to append")
        stopped = points.hit("worker-before-append")
        (owner,) = [member for member in stage.cluster.named("worker") if member.pid == stopped]
        await until_succeeded(stage, owned_by(stage, owner))
        owner.signal(signal.SIGCONT)

    changes = changed_workers(tmp_path, "client_fence" if is_broken else None)
    found = await violated(tmp_path, stop_a_worker_before_it_writes, changes, workers=2)
    assert_told("fenced", found, is_broken)


@IS_BROKEN
async def test_a_group_that_begins_at_the_end_is_caught(
    tmp_path: Path, is_broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_broken:
        monkeypatch.setattr(load, "PATIENCE", 8.0)  # for what never comes; a worker is there within less

    async def queue_before_there_is_a_group(stage: Stage) -> None:
        worker = stage.cluster.members["worker-1"]
        await worker.kill(hold=True)
        add_users(stage)
        client, jobs = stage.redis(), keys.queue(keys.JOBS, MODEL, 0)
        try:
            await eventually(lambda: client.xlen(jobs) == USERS, "what the users want is queued")
            client.xgroup_destroy(jobs, keys.GROUP)
        finally:
            client.close()
        worker.release()
        await stage.cluster.wait_until_served()

    changes = changed_workers(tmp_path, "group_at_end" if is_broken else None)
    found = await violated(tmp_path, queue_before_there_is_a_group, changes)
    assert_told("terminal", found, is_broken)


@pytest.mark.parametrize("variant", ["retries", "pending_list", "client_fence"])
async def test_without_a_fault_what_is_broken_does_no_harm(tmp_path: Path, variant: str) -> None:
    """So it is the fault that brings out what is caught above, and not something else that the variant breaks."""

    async def let_users_read_some(stage: Stage) -> None:
        users = add_users(stage, tokens=50)
        await eventually(lambda: users.notes.finished >= USERS, "users have read to the end")

    assert_told("nothing", await violated(tmp_path, let_users_read_some, changed_workers(tmp_path, variant)), False)


def test_a_variant_does_not_turn_sound_when_a_script_changes() -> None:
    with pytest.raises(AssertionError, match=r"append.lua has 'not in it' 0 times"):
        scripts.alter(append=[scripts.APPEND_WITHOUT_FENCE, ("not in it", "")])
    with pytest.raises(AssertionError, match=r"append.lua has 'local' \d\d+ times"):
        scripts.alter(append=[("local", "")])


def changed_workers(folder: Path, variant: str | None) -> dict[str, Changes]:
    """Returns workers with failpoints, broken in some way if one is named."""
    points = Failpoints(folder / "failpoints")
    command = points.command(WORKER)
    if variant is not None:
        command = [sys.executable, "-m", "drills.broken", variant, WORKER, str(points.folder)]
    return {name: Changes(command=command) for name in ("worker-1", "worker-2")}


def redis_command(folder: Path, port: int) -> list[str]:
    planned = plan.processes(StackSettings(state=folder, port=port), Machine.this())
    (redis,) = [one for one in planned if one.name == "redis"]
    assert redis.folder is not None
    redis.folder.mkdir(parents=True)
    return redis.command


async def violated(folder: Path, fault: Fault, changes: Mapping[str, Changes], **settings: Any) -> list[checker.Violation]:
    """Runs a small stack, breaks it, and returns what the checker finds in its history."""
    with history.History(folder / "history.jsonl") as written:
        drill = Drill("control", folder, written, Random(1), long=False, show=print)
        async with set_up(drill, common=COMMON, changes=changes, **{"gateways": 1, "workers": 1, **settings}) as stage:
            await fault(stage)
    return checker.check(history.read(written.file))


def add_users(stage: Stage, tokens: int = TOKENS) -> Load:
    def wish(chance: Random, call: int) -> Wish:
        return Wish(f"{call} {chance.getrandbits(64):x}", {"max_tokens": tokens})

    drill = stage.drill
    return stage.add(Load(stage.cluster.targets, drill.history, drill.random, USERS, wish, {"reads_by_stub": 1}))


async def until_more_is_read(users: Load, tokens: int, patience: float = 20.0) -> None:
    wanted = users.notes.tokens + tokens
    await eventually(lambda: users.notes.tokens >= wanted, f"users have read {tokens} more tokens", patience)
    users.check()


def some_owner(stage: Stage) -> tuple[Member, dict[str, int]]:
    """Returns a worker that has something in its hands, and what, each with its epoch."""
    owned = {member.name: owned_by(stage, member) for member in stage.cluster.named("worker")}
    name = max(owned, key=lambda name: len(owned[name]))
    assert owned[name], "no worker has anything to do"
    return stage.cluster.members[name], owned[name]


def owned_by(stage: Stage, owner: Member) -> dict[str, int]:
    found = standings(stage).items()
    return {name: epoch for name, (state, worker, epoch, _) in found if state == RUNNING and worker == owner.name}


def standings(stage: Stage) -> dict[str, tuple[int, str, int, bool]]:
    """Returns every generation's state, owner, epoch, and whether this attempt has appended."""
    client = stage.redis()
    prefix = keys.record("", 0)
    try:
        found = {}
        for key in client.scan_iter(f"{prefix}*"):
            state, owner, epoch, appended = client.hmget(key, "state", "owner", "epoch", "appended_us")
            found[key.decode().removeprefix(prefix)] = int(state), (owner or b"").decode(), int(epoch), appended is not None
        return found
    finally:
        client.close()


async def until_succeeded(stage: Stage, owned: Mapping[str, int]) -> None:
    """Returns once every generation has been taken over, and its new owner has written, or has ended it."""
    assert owned, "the worker had nothing to do"

    async def succeeded() -> bool:
        now = await asyncio.to_thread(standings, stage)
        return all(now[name][0] > RUNNING or (now[name][2] > epoch and now[name][3]) for name, epoch in owned.items())

    await eventually(succeeded, f"{len(owned)} generations have new owners that write")


def assert_told(invariant: str, found: list[checker.Violation], is_broken: bool) -> None:
    if is_broken:
        assert invariant in {violation.invariant for violation in found}, f"the checker says only: {list(map(str, found))}"
    else:
        assert not found, "\n".join(map(str, found))

"""A process dies at each place on the way from submit to finish, one place after the other, at the worst moment of each."""

import asyncio
import itertools
import signal
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from random import Random

import redis

from drills import checker, nemesis
from drills.cluster import Changes, Member
from drills.failpoints import ENGINE, GATEWAY, POINTS, WORKER, Failpoints, Point
from drills.history import Event
from drills.load import Load
from drills.notebook import Wish
from drills.scenario import Drill
from drills.stage import Stage, set_up
from drills.waiting import eventually
from tokenrelay.lifecycle import FAILED
from tokenrelay.store import keys

USERS = 20
TRIES, TRY_SECONDS = 6, 5.0  # to have a place reached
SERVE_SECONDS = 60.0  # for what was killed to serve again
LOOK_SECONDS = 0.1  # between looks whether it does
DRAIN_SECONDS = 0.3  # a worker that stops hands back what it has
MODEL = "simulated-drill"
PROGRAMS = {"gateway": GATEWAY, "worker": WORKER, "engine": ENGINE}
SPLIT = "worker-between-append-and-finish"
SPLITS = tuple(point for point in POINTS if point.name == SPLIT) * 2
POINTS_OF_A_ROUND = (*POINTS, *SPLITS)
SOME = 10  # points of a short drill, at random

Provocation = Callable[[Stage, Failpoints], Awaitable[object]]


async def run(drill: Drill) -> None:
    points = Failpoints(drill.folder / "failpoints")
    names = [f"{kind}-{number}" for kind in PROGRAMS for number in (1, 2)]
    changes = {name: Changes(command=points.command(PROGRAMS[name.partition("-")[0]])) for name in names}
    common = {"TOKENRELAY_DRAIN_SECONDS": str(DRAIN_SECONDS)}
    hit: list[int] = []
    missed: list[str] = []
    async with set_up(drill, common=common, changes=changes, may_exit=tuple(names)) as stage:
        load = stage.add(Load(stage.cluster.targets, drill.history, drill.random, USERS, wishes=short_answers))
        rounds = 2 if drill.long else 1
        for point in itertools.chain.from_iterable(_one_round(drill) for _ in range(rounds)):
            pid = await _hit(stage, points, point)
            points.disarm()
            if pid is None:
                missed.append(point.name)
            else:
                hit.append(pid)
            await _wait_until_all_serve(stage, pid)
        await stage.last(1.0)
    _judge(drill, load, hit, missed)


def short_answers(chance: Random, call: int) -> Wish:
    """Returns a prompt that nobody else has, and an answer that is soon over: a suspect waits for the engine to itself."""
    return Wish(f"{call} {chance.getrandbits(64):x}", {"max_tokens": chance.randint(20, 300)})


def _one_round(drill: Drill) -> Iterator[Point]:
    """Yields all points in random order, those of the engine far from each other: a death makes suspects, which take time."""
    chance = drill.random
    chosen = POINTS_OF_A_ROUND if drill.long else (*chance.sample(POINTS, SOME), *SPLITS)
    engine = [point for point in chosen if point.program == ENGINE]
    others = [point for point in chosen if point.program != ENGINE]
    chance.shuffle(engine)
    chance.shuffle(others)
    share = -(-len(others) // (len(engine) + 1))
    yield from others[:share]
    for number, point in enumerate(engine, start=1):
        yield point
        yield from others[number * share : (number + 1) * share]


async def _hit(stage: Stage, points: Failpoints, point: Point) -> int | None:
    """Arms a point and has it reached; returns the id of the process that it hit, None if none came by."""
    if point.program == ENGINE:
        await _wait_until_nothing_is_suspect(stage)
    stage.note_fault("failpoint", point.name)
    points.arm(point.name)
    provoke = PROVOCATIONS.get(point.name, _let_users_do_it)
    for _ in range(TRIES):
        await provoke(stage, points)
        with suppress(AssertionError):
            await eventually(lambda: points.hit(point.name), f"{point.name} is reached", TRY_SECONDS)
            return points.hit(point.name)
        await stage.last(0)
    stage.drill.say(f"{point.name} was not reached")
    return None


async def _let_users_do_it(_: Stage, __: Failpoints) -> None:
    """Users call, read, cancel, leave and come back all the time, and what they began ends."""


async def _kill_a_worker(stage: Stage, _: Failpoints) -> None:
    await nemesis.kill(stage, stage.drill.random.choice(stage.cluster.named("worker")).name)


async def _stop_a_worker(stage: Stage, _: Failpoints) -> None:
    member = stage.drill.random.choice(stage.cluster.named("worker"))
    stage.note_fault("SIGTERM", member.name)
    await member.terminate()


async def _have_entries_hang(_: Stage, points: Failpoints) -> None:
    points.arm("worker-after-read-before-claim")


PROVOCATIONS: dict[str, Provocation] = {
    "gateway-after-reap": _kill_a_worker,
    "worker-after-reap": _kill_a_worker,
    "worker-after-reading-log": _kill_a_worker,
    "worker-before-release": _stop_a_worker,
    "worker-after-release": _stop_a_worker,
    "worker-before-return-unclaimed": _have_entries_hang,
    "worker-after-return-unclaimed": _have_entries_hang,
}
"""What has a point reached that users alone do not reach."""


async def _wait_until_all_serve(stage: Stage, killed: int | None) -> None:
    members = [member for kind in PROGRAMS for member in stage.cluster.named(kind)]

    async def serve() -> bool:
        await stage.last(LOOK_SECONDS)
        for member in members:
            if member.pid in (None, killed) or not await asyncio.to_thread(_is_healthy, stage, member):
                return False
        return True

    await eventually(serve, f"all processes serve again; see the logs in {stage.cluster.folder}", SERVE_SECONDS)


def _is_healthy(stage: Stage, member: Member) -> bool:
    url = f"http://127.0.0.1:{stage.cluster.metrics_port(member.name)}/healthz"
    with suppress(OSError), urllib.request.urlopen(url, timeout=5) as response:
        return bool(response.status == 200)
    return False


async def _wait_until_nothing_is_suspect(stage: Stage) -> None:
    """Returns once no generation is left whose engine died before it gave a token: a second such death would end it."""
    client = stage.redis()

    def suspects() -> int:
        queues = [keys.queue(name, MODEL, 0) for name in (keys.JOBS, keys.RETURNED)]
        waiting = {fields[b"id"].decode() for queue in queues for _, fields in client.xrange(queue)}
        return sum(client.hexists(keys.record(name, 0), "engine_deaths") for name in waiting)

    async def none() -> bool:
        await stage.last(LOOK_SECONDS)
        with suppress(redis.RedisError):
            return await asyncio.to_thread(suspects) == 0
        return False

    try:
        await eventually(none, "no generation is a suspect any more", SERVE_SECONDS)
    finally:
        client.close()


def _judge(drill: Drill, load: Load, hit: Sequence[int], missed: Sequence[str]) -> None:
    events = drill.events()
    exits = [event for event in events if event["kind"] == "exit" and not event["wanted"]]
    # Of a gateway whose place is inside Envoy, Envoy was killed, and the gateway then ended by itself.
    ended = {one["pid"]: one["status"] for one in exits}
    foreseen = {pid for pid in hit if ended.get(pid) == FAILED}
    unforeseen = [
        f"{one['process']} with status {one['status']}"
        for one in exits
        if one["status"] != -signal.SIGKILL and one["pid"] not in foreseen
    ]
    complete = found_complete(events)
    needless = [log["id"] for log in complete if log["engine_called"]]
    drill.judge(
        "every failpoint was reached",
        seen=f"{len(hit)}, not {', '.join(missed)}" if missed else str(len(hit)),
        wanted=str(len(hit) + len(missed)),
        held=not missed,
    )
    drill.judge("errors that reached a user", seen=str(len(load.failed)), wanted="0", held=not load.failed)
    drill.judge("ends of processes besides", seen=", ".join(unforeseen) or "0", wanted="0", held=not unforeseen)
    drill.judge(
        "engine calls for what was taken over after its last token",
        seen=f"{len(needless)} for {len(complete)} such generations",
        wanted="0 for more than 0",
        held=bool(complete) and not needless,
    )


def found_complete(events: Sequence[Event]) -> list[Event]:
    """Returns the logs of finished generations whose last attempt had nothing left to do."""
    history = checker.History(events)

    def was_complete(log: Event) -> bool:
        asked = history.begun_by(log["id"])
        return asked is not None and log["attempts"][-1][2] >= len(history.expectation(asked).tokens)

    return [log for log in history.logs.values() if log["state"] == "FINISHED" and log["attempts"] and was_complete(log)]

"""Another Redis becomes the primary under load, by demotion, SIGTERM, kill -9, and by Sentinel: streams go on, or are told."""

from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from bench.processes.ports import free_ports
from deploy.local import plan
from drills import timings
from drills.faults.tcp_proxy import TcpProxy
from drills.history import Event
from drills.load import Load
from drills.promotions import Promotions
from drills.replication import HOST, Replication
from drills.scenario import Drill
from drills.sentinels import Sentinels
from drills.stage import set_up
from drills.timings import Durations, Outage

USERS = 32
UP = 3.0  # seconds between two failovers
LONGEST = 3.0  # seconds that a stream may stand still once there is a primary


async def run(drill: Drill) -> None:
    port = free_ports()
    async with AsyncExitStack() as owned:
        address, link = await TcpProxy(port + plan.REDIS).start(), await TcpProxy(port + plan.REDIS).start()
        for proxy in (address, link):
            owned.push_async_callback(proxy.close)
        common = {"TOKENRELAY_REDIS_URL": f"redis://{HOST}:{address.port}/0"}
        async with set_up(drill, common=common, port=port) as stage:
            replication = Replication(stage, address, link)
            await replication.begin()
            load = stage.add(Load(stage.cluster.targets, drill.history, drill.random, USERS))
            by_hand = Promotions(replication)
            ways = (by_hand.fail_over, by_hand.demote, by_hand.terminate, by_hand.kill, by_hand.kill_ahead)
            for way in ways * (4 if drill.long else 1):
                await stage.last(UP)
                await way()
            sentinels = Sentinels(replication)
            await sentinels.begin()
            for way in (sentinels.kill_primary, sentinels.fail_over) * (4 if drill.long else 1):
                await stage.last(UP)
                await way()
            await stage.last(UP)
    _judge(drill, load)


def _judge(drill: Drill, load: Load) -> None:
    events = drill.events()
    for number, outage in enumerate(timings.outages(events), start=1):
        waits = _standstills(events, outage)
        drill.judge(
            f"{number}, {outage.fault}: streams stand still once there is a primary",
            seen=str(waits),
            wanted=f"at most {LONGEST:.0f} s",
            held=bool(waits.seconds) and waits.percentile(1.0) <= LONGEST,
        )
        told = sum(event["kind"] == "failed" and outage.died_at <= event["at"] < outage.until for event in events)
        drill.figures[f"{number}, {outage.fault}"] = f"a primary after {outage.seconds:.1f} s, {told} users told of a loss"
    ended = Counter(event["process"] for event in events if event["kind"] == "exit" and not event["wanted"])
    drill.judge("processes that ended by themselves", seen=str(ended.total()), wanted="0", held=not ended)
    reasons = Counter(failure.partition(":")[0] for failure in load.failed)
    drill.figures["errors that reached a user"] = ", ".join(f"{count} {name}" for name, count in reasons.items()) or "none"
    finished = load.notes.finished
    drill.judge("generations that users saw end well", seen=str(finished), wanted="more than 100", held=finished > 100)


def _standstills(events: Sequence[Event], outage: Outage) -> Durations:
    """Returns how long streams stood still once there was a primary, and once it was the only one."""
    alone = [event["until"] for event in events if event["kind"] == "promoted" and event["since"] == outage.died_at]
    found = timings.standstills(events, outage, LONGEST)
    for instant in alone:
        if instant > outage.back_at + LONGEST:
            found = Durations(found.seconds + timings.standstills(events, replace(outage, back_at=instant), LONGEST).seconds)
    return found

"""Connections are late, narrow, cut after some bytes, silent in one direction, or refused, on every stretch of the way."""

from contextlib import AsyncExitStack
from random import Random

from bench.processes.ports import free_ports
from deploy.local import plan
from drills.cluster import Changes
from drills.faults.proxy_link import Silence
from drills.faults.tcp_proxy import TcpProxy
from drills.load import Load
from drills.scenario import Drill
from drills.stage import set_up

USERS = 32
FAULTS = ("late", "narrow", "cut", "held", "swallowed", "refused")


async def run(drill: Drill) -> None:
    port = free_ports()
    ends = {
        "worker-1 to redis": port + plan.REDIS,
        "gateway-1 to redis": port + plan.REDIS,
        "worker-2 to engine-2": port + plan.ENGINES + 1,
        "clients to gateway-2": port + 1,
    }
    async with AsyncExitStack() as owned:
        proxies: dict[str, TcpProxy] = {}
        for way, end in ends.items():
            proxies[way] = await TcpProxy(end, seed=drill.random.getrandbits(32)).start()
            owned.push_async_callback(proxies[way].close)
        address = {way: f"127.0.0.1:{proxy.port}" for way, proxy in proxies.items()}
        changes = {
            "worker-1": Changes({"TOKENRELAY_REDIS_URL": f"redis://{address['worker-1 to redis']}/0"}),
            "gateway-1": Changes({"TOKENRELAY_REDIS_URL": f"redis://{address['gateway-1 to redis']}/0"}),
            "worker-2": Changes({"TOKENRELAY_ENGINE_ADDRESS": address["worker-2 to engine-2"]}),
        }
        async with set_up(drill, changes=changes, port=port) as stage:
            targets = [stage.cluster.targets[0], address["clients to gateway-2"]]
            load = stage.add(Load(targets, drill.history, drill.random, USERS))
            for number in range(30 if drill.long else 12):
                await stage.last(drill.random.uniform(0.5, 1.5))
                way = drill.random.choice(list(proxies))
                fault = FAULTS[number % len(FAULTS)]
                stage.note_fault(fault, way)
                _break(proxies[way], fault, drill.random)
                await stage.last(drill.random.uniform(0.5, 4.0))
                await proxies[way].heal()
                stage.note_healed(fault, way)
            await stage.last(2.0)
    drill.judge("errors that reached a user", seen=str(len(load.failed)), wanted="0", held=not load.failed)


def _break(proxy: TcpProxy, fault: str, chance: Random) -> None:
    link = chance.choice([proxy.to_target, proxy.to_client])
    match fault:
        case "late":
            proxy.to_target.delay(0.1, 0.1)
            proxy.to_client.delay(0.1, 0.1)
        case "narrow":
            link.limit(20_000)
        case "cut":
            link.cut_after(chance.randint(0, 50_000))
        case "held":
            link.be_silent(Silence.HELD)
        case "swallowed":
            link.be_silent(Silence.SWALLOWED)
        case "refused":
            proxy.refuse_new()
            proxy.reset_all()

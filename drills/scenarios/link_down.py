"""A worker's machine loses its network for three leases: packets vanish, and nobody is told."""

from contextlib import AsyncExitStack

from bench.processes.ports import free_ports
from deploy.local import plan
from drills.cluster import Changes
from drills.faults.network import Network
from drills.faults.tcp_proxy import TcpProxy
from drills.load import Load
from drills.scenario import Drill
from drills.stage import LEASE_SECONDS, set_up

USERS = 32


async def run(drill: Drill) -> None:
    obstacle = Network.obstacle()
    if obstacle is not None:
        drill.figures["not run"] = obstacle
        drill.say(f"not run: {obstacle}")
        return
    port = free_ports()
    async with AsyncExitStack() as owned:
        network = Network()
        owned.callback(network.close)
        ports = []
        for end in (port + plan.REDIS, port + plan.ENGINES):
            proxy = await TcpProxy(end, host=network.host_address).start()
            owned.push_async_callback(proxy.close)
            ports.append(proxy.port)
        environment = {
            "TOKENRELAY_REDIS_URL": f"redis://{network.host_address}:{ports[0]}/0",
            "TOKENRELAY_ENGINE_ADDRESS": f"{network.host_address}:{ports[1]}",
        }
        changes = {"worker-1": Changes(environment, prefix=network.command_prefix)}
        async with set_up(drill, changes=changes, port=port) as stage:
            load = stage.add(Load(stage.cluster.targets, drill.history, drill.random, USERS))
            for _ in range(6 if drill.long else 2):
                await stage.last(3.0)
                stage.note_fault("link down", "worker-1")
                network.take_down()
                await stage.last(3 * LEASE_SECONDS)
                network.bring_up()
                stage.note_healed("link down", "worker-1")
            await stage.last(3.0)
    taken_over = sum(len(event["attempts"]) for event in drill.events() if event["kind"] == "log")
    drill.judge("generations taken over", seen=str(taken_over), wanted="more than 0", held=taken_over > 0)
    drill.judge("errors that reached a user", seen=str(len(load.failed)), wanted="0", held=not load.failed)

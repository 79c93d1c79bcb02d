"""Two Redis servers of which one follows the other, behind the one address at which clients find the primary."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import redis.asyncio

from deploy.local import plan
from drills import witness
from drills.cluster import Changes, Member
from drills.faults.tcp_proxy import TcpProxy
from drills.stage import Stage
from drills.waiting import eventually

REPLICA = plan.QUERY + 1  # where the second server listens, counted from the first gateway's port
SYNC_SECONDS = 30.0
HOST = "127.0.0.1"


class Replication:
    """Which server is the primary, and how the address moves to the other one.

    Attributes:
        link: what the replica has for the primary's address, so that it can be cut off; None: nothing is between them.

    Args:
        address: what clients have for it.
    """

    def __init__(self, stage: Stage, address: TcpProxy, link: TcpProxy) -> None:
        self.stage = stage
        self._address = address
        self.link: TcpProxy | None = link
        self._members = {"redis": stage.cluster.members["redis"]}

    async def begin(self) -> None:
        """Starts the replica; returns once it has all that the primary has."""
        cluster = self.stage.cluster
        first = self._members["redis"].process
        port, folder = cluster.settings.port + REPLICA, cluster.folder / "replica"
        folder.mkdir()
        # A later option overrides an earlier one.
        its_own = [*first.command, "--port", str(port), "--dir", str(folder)]
        process = replace(first, name="replica", command=its_own, ports=(port,))
        self._members["replica"] = cluster.add(process, Changes(command=[*its_own, *self._role()]))
        for member in self._members.values():
            await self._wait_until_up(member)
        await self.wait_until_in_sync()

    @property
    def primary(self) -> Member:
        return self._members[self.stage.cluster.primary]

    @property
    def replica(self) -> Member:
        (other,) = [member for name, member in self._members.items() if name != self.stage.cluster.primary]
        return other

    async def move_to(self, new: Member, since: float, *, before: Callable[[], Awaitable[Any]] | None = None) -> None:
        """Moves the address, and writes down what the new primary has before anybody reaches it.

        Args:
            since: when the former primary began to end.
            before: what makes the new one take writes, if it does not.
        """
        with redis.Redis(port=port_of(new), socket_timeout=SYNC_SECONDS) as client:
            logs = await asyncio.to_thread(witness.positions, client)
        if before is not None:
            await before()
        old = self.primary
        self.stage.cluster.primary = new.name
        self._address.retarget(port_of(new))
        at = time.time()
        self.stage.drill.history.note("serving", target="redis", died_at=since)
        if old.pid is not None:
            # While it takes writes, they are lost.
            await self.wait_for_role(old, "slave")
        until = at if old.pid is None else time.time()
        self.stage.drill.history.note("promoted", target=new.name, since=since, until=until, logs=logs)

    async def come_back(self, old: Member) -> None:
        """Starts the former primary, as a replica."""
        old.changes.command = [*old.process.command, *self._role()]
        old.release()
        await self._wait_until_up(old)
        await self.wait_until_in_sync()

    async def follow(self, old: Member) -> None:
        """Has the former primary copy the new one."""
        _, *primary = self._role()
        await command(old, "REPLICAOF", *primary)
        await self.wait_until_in_sync()

    async def copy_without_link(self) -> None:
        """Has the replica copy the primary without anything between them, which Sentinel would not understand."""
        self.link = None
        await self.follow(self.replica)

    async def wait_until_in_sync(self) -> None:
        async def in_sync() -> bool:
            with suppress(redis.RedisError):
                return bool((await info(self.replica)).get("master_link_status") == "up")
            return False

        await eventually(in_sync, "the replica has all that the primary has", SYNC_SECONDS)

    async def wait_for_role(self, member: Member, role: str) -> None:
        async def is_it() -> bool:
            with suppress(redis.RedisError):
                return bool((await info(member))["role"] == role)
            return False

        await eventually(is_it, f"{member.name} is a {role}", SYNC_SECONDS)

    async def _wait_until_up(self, member: Member) -> None:
        with redis.Redis(port=port_of(member)) as client:
            await asyncio.to_thread(witness.wait_until_loaded, client)
        # Else a replica waits for five seconds whether there are more.
        await command(member, "CONFIG", "SET", "repl-diskless-sync-delay", "0")
        await command(member, "CONFIG", "SET", "repl-diskless-sync", "yes")

    def _role(self) -> list[str]:
        """Returns the options of a server that copies the primary."""
        port = port_of(self.primary)
        if self.link is not None:
            self.link.retarget(port)
            port = self.link.port
        return ["--replicaof", HOST, str(port)]

    def begin_to_break(self, how: str) -> float:
        self.stage.note_fault(how, self.primary.name)
        return time.time()


def port_of(member: Member) -> int:
    return member.process.ports[0]


async def command(member: Member, *words: str) -> Any:
    """Sends a command to a Redis or a Sentinel and returns the reply."""
    client: Any = redis.asyncio.Redis(port=port_of(member), socket_timeout=SYNC_SECONDS, decode_responses=True)
    async with client:
        return await client.execute_command(*words)


async def info(member: Member) -> dict[str, Any]:
    """Returns what a Redis says of its replication."""
    async with redis.asyncio.Redis(port=port_of(member), socket_timeout=SYNC_SECONDS, decode_responses=True) as client:
        return dict(await client.info("replication"))

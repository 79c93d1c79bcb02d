"""Three Sentinels that watch a replication, and move its address as their clients would learn of it."""

from contextlib import suppress
from functools import partial

import redis

from deploy.local import plan
from drills.cluster import Member
from drills.replication import HOST, REPLICA, Replication, command, port_of
from drills.waiting import eventually

FIRST = REPLICA + 1  # where the first one listens, counted from the first gateway's port
COUNT, QUORUM = 3, 2
MASTER = "drill"
DOWN_AFTER_MS, FAILOVER_TIMEOUT_MS = 1_000, 2_000
SECONDS = 30.0  # for a failover, and for the Sentinels to find one another


class Sentinels:
    """Watches the two servers of a replication."""

    def __init__(self, replication: Replication) -> None:
        self._replication = replication
        self._members: list[Member] = []

    async def begin(self) -> None:
        """Starts them; returns once each knows of the replica and of the others."""
        await self._replication.copy_without_link()
        cluster = self._replication.stage.cluster
        executable = cluster.members["redis"].process.command[0]
        for number in range(COUNT):
            name, port = f"sentinel-{number + 1}", cluster.settings.port + FIRST + number
            folder = cluster.folder / name
            folder.mkdir()
            file = folder / "sentinel.conf"
            file.write_text("\n".join(self._configuration(port)) + "\n")
            process = plan.Process(name, [executable, str(file), "--sentinel", "--dir", str(folder)], (port,), 10)
            self._members.append(cluster.add(process))
        for member in self._members:
            await eventually(partial(self._knows_all, member), f"{member.name} knows all", SECONDS)

    def _configuration(self, port: int) -> list[str]:
        return [
            f"bind {HOST}",
            f"port {port}",
            f"sentinel monitor {MASTER} {HOST} {port_of(self._replication.primary)} {QUORUM}",
            f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {MASTER} {FAILOVER_TIMEOUT_MS}",
        ]

    async def kill_primary(self) -> None:
        """Kill -9 of the primary; it is started again once another one has been chosen."""
        since, old = self._replication.begin_to_break("kill -9, Sentinel"), self._replication.primary
        await old.kill(hold=True)
        await self._follow(old, since)
        await self._replication.come_back(old)

    async def fail_over(self) -> None:
        """Has them promote the replica of a primary that lives. For a while that goes on to take writes, which are lost."""
        since, old = self._replication.begin_to_break("SENTINEL FAILOVER"), self._replication.primary
        await command(self._members[0], "SENTINEL", "FAILOVER", MASTER)
        await self._follow(old, since)
        await self._replication.wait_until_in_sync()

    async def _follow(self, old: Member, since: float) -> None:
        """Moves the address as soon as a Sentinel names another server than the former primary."""
        new = self._replication.replica

        async def is_named() -> bool:
            _, port = await command(self._members[0], "SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)
            return int(port) == port_of(new)

        await eventually(is_named, f"Sentinel names {new.name} instead of {old.name}", SECONDS)
        await self._replication.move_to(new, since)

    async def _knows_all(self, member: Member) -> bool:
        with suppress(redis.RedisError):
            words = await command(member, "SENTINEL", "MASTER", MASTER)
            state = words if isinstance(words, dict) else dict(zip(words[::2], words[1::2], strict=True))
            return (int(state["num-slaves"]), int(state["num-other-sentinels"])) == (1, COUNT - 1)
        return False

"""Ways of a person to make the replica the primary; what was the primary follows it afterwards."""

import asyncio

from drills.faults.proxy_link import Silence
from drills.replication import HOST, Replication, command, port_of

BEHIND_SECONDS = 0.3  # for how long nothing has reached a replica that is behind when the primary dies
AWAY_SECONDS = 0.5  # between a primary's death and somebody's promoting the replica


class Promotions:
    """Each method changes the roles once, and returns when the former primary follows the new one."""

    def __init__(self, pair: Replication) -> None:
        self._pair = pair

    async def fail_over(self) -> None:
        """The servers change their roles by FAILOVER, which loses nothing; the former primary lives on, as a replica."""
        since, new = self._pair.begin_to_break("FAILOVER"), self._pair.replica
        await command(self._pair.primary, "FAILOVER", "TIMEOUT", "5000")
        await self._pair.wait_for_role(new, "master")
        await self._pair.move_to(new, since)
        await self._pair.follow(self._pair.replica)

    async def demote(self) -> None:
        """The replica is promoted and then the primary demoted, by REPLICAOF; it keeps its open connections."""
        since, old, new = self._pair.begin_to_break("REPLICAOF"), self._pair.primary, self._pair.replica
        await command(new, "REPLICAOF", "NO", "ONE")
        await command(old, "REPLICAOF", HOST, str(port_of(new)))
        await self._pair.move_to(new, since)
        await self._pair.follow(old)

    async def terminate(self) -> None:
        """SIGTERM of the primary. A Redis from 7.0 on waits for its replica before it ends."""
        since, old = self._pair.begin_to_break("SIGTERM"), self._pair.primary
        await old.terminate(hold=True)
        await self._promote_by_hand(since)
        await self._pair.come_back(old)

    async def kill(self) -> None:
        """Kill -9 of the primary."""
        since, old = self._pair.begin_to_break("kill -9"), self._pair.primary
        await old.kill(hold=True)
        await self._promote_by_hand(since)
        await self._pair.come_back(old)

    async def kill_ahead(self) -> None:
        """Kill -9 of a primary whose last writes the replica does not have."""
        link = self._pair.link
        assert link is not None, "Sentinel is not here yet"
        link.be_silent(Silence.SWALLOWED)
        await self._pair.stage.last(BEHIND_SECONDS)
        since, old = self._pair.begin_to_break("kill -9, replica behind"), self._pair.primary
        await old.kill(hold=True)
        await self._promote_by_hand(since)
        await link.heal()
        await self._pair.come_back(old)

    async def _promote_by_hand(self, since: float) -> None:
        await asyncio.sleep(AWAY_SECONDS)
        new = self._pair.replica
        await self._pair.move_to(new, since, before=lambda: command(new, "REPLICAOF", "NO", "ONE"))

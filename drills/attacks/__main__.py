"""Attacks a gateway, as a process of its own: `python -m drills.attacks TARGET REQUESTS SEED`; writes JSON."""

import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random

from drills.attacks import calls
from drills.attacks.frames import FrameAttacks
from drills.attacks.spoiled import Spoiled
from drills.attacks.stalls import Stalls
from drills.attacks.tally import Tally
from drills.raw_http2.connection import RawConnection

CALLERS = 8
TOLD = 50  # bad answers that are told one by one

Round = Callable[[RawConnection], Awaitable[int]]
"""Some requests of one kind; returns how many."""


class Attack:
    """Hostile requests of all kinds, and what came of them."""

    def __init__(self, target: str, requests: int, chance: Random) -> None:
        self.tally = Tally()
        self._left = requests
        self._target = target
        self._chance = chance
        self._stalls = Stalls(target, chance, self.tally)
        spoiled = Spoiled(chance)
        frames = FrameAttacks(target, chance, spoiled, self.tally)

        def batch(kind: str) -> Round:
            return partial(calls.make, kind=kind, spoiled=spoiled, tally=self.tally)

        # How many of a hundred rounds are of which kind; a round of the first ones is many requests.
        self._rounds: tuple[tuple[int, Round], ...] = (
            (16, batch("random bytes")),
            (16, batch("mutated")),
            (30, batch("wrong fields")),
            (10, batch("wrong prefixes")),
            (8, batch("wrong headers")),
            (8, batch("wrong names")),
            (6, frames.resets),
            (6, frames.floods),
            (6, frames.broken_frames),
            (6, frames.abandoned),
            (4, self._stalls.half_open),
            (4, self._stalls.slow),
        )

    async def run(self) -> None:
        """Returns when all requests have been made and nothing hangs any more."""
        await asyncio.gather(*(self._caller() for _ in range(CALLERS)))
        await self._stalls.join()

    async def _caller(self) -> None:
        weights = [weight for weight, _ in self._rounds]
        connection = RawConnection(self._target)
        try:
            while self._left > 0:
                if not connection.is_open:
                    await connection.close()
                    connection = RawConnection(self._target)
                    await connection.open()
                _, chosen = self._chance.choices(self._rounds, weights=weights)[0]
                made = await chosen(connection)
                self._left -= made
        finally:
            await connection.close()


async def main(target: str, requests: int, seed: str) -> None:
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # it tells of every connection that was cut
    attack = Attack(target, requests, Random(seed))
    await attack.run()
    tally = attack.tally
    outcomes = {kind: dict(counts) for kind, counts in sorted(tally.outcomes.items())}
    told = {"requests": tally.requests, "outcomes": outcomes, "bad": tally.bad[:TOLD], "bad_count": len(tally.bad)}
    print(json.dumps(told))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))

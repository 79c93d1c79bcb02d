"""The users of a drill: many at a time, each doing what users do, and each writing down all that it sees."""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from drills.history import History
from drills.notebook import Notebook, Wish, Wishes
from drills.user import KINDS, User
from tokenrelay.client import AsyncClient
from tokenrelay.client.resumption import RetryPolicy

PATIENCE = 60.0  # seconds without progress after which a user gives up, which is then told as a failure
PAUSE = 0.2  # seconds that a user who got an error takes before the next call


def for_the_simulated_engine(chance: Random, call: int) -> Wish:
    """Returns a prompt that nobody else has, and mostly short answers."""
    shortest, longest = chance.choices([(5, 100), (100, 400), (400, 1200)], weights=[70, 25, 5])[0]
    return Wish(f"{call} {chance.getrandbits(64):x}", {"max_tokens": chance.randint(shortest, longest)})


@dataclass
class Load:
    """Users that call without pause until they are stopped.

    Args:
        targets: the gateways.
        users: how many at a time; each has one generation, and with it at least one stream, open at all times.
        kinds: what they do, by name, with weights; by default all that a user can do.
        first: the number of their first call; no two loads of a drill may share numbers.
    """

    targets: Sequence[str]
    history: History
    chance: Random
    users: int
    wishes: Wishes = for_the_simulated_engine
    kinds: Mapping[str, int] | None = None
    first: int = 1
    calls: int = 0

    def __post_init__(self) -> None:
        self._numbers = itertools.count(self.first)
        self._stopping = False
        self._running: list[asyncio.Task[None]] = []
        self._weights = self.kinds or {name: weight for name, (weight, _) in KINDS.items()}
        self.notes = Notebook(self.history)

    @property
    def failed(self) -> list[str]:
        """The errors that users were told, as `REASON: text`."""
        return self.notes.failed

    def start(self) -> None:
        self._running = [asyncio.create_task(self._user(Random(self.chance.random()))) for _ in range(self.users)]

    async def stop(self) -> None:
        """Lets every user finish what it has begun, at least one call. Fails with what a user did not expect."""
        self._stopping = True
        await asyncio.gather(*self._running)

    def check(self) -> None:
        """Raises what has broken a user, if that has happened."""
        for user in self._running:
            if user.done() and not user.cancelled() and (error := user.exception()) is not None:
                raise error

    async def close(self) -> None:
        for user in self._running:
            user.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _user(self, chance: Random) -> None:
        targets = list(self.targets)
        chance.shuffle(targets)
        async with AsyncClient(targets, retry=RetryPolicy(give_up_after=PATIENCE)) as client:
            user = User(client, targets, self.notes, chance, numbers=self._numbers, patience=PATIENCE)
            while True:
                kind = chance.choices(list(self._weights), weights=list(self._weights.values()))[0]
                call = next(self._numbers)
                failed = len(self.failed)
                _, does = KINDS[kind]
                await does(user, call, self.wishes(chance, call))
                self.calls += 1
                if self._stopping:
                    return
                if len(self.failed) > failed:
                    await asyncio.sleep(PAUSE)

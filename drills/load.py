"""The users of a drill: many at a time, each doing what users do, and each writing down all that it sees."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

import grpc

from drills.bare_client import BareStream
from drills.history import History
from tokenrelay.client import AsyncClient
from tokenrelay.client.async_client import AsyncStream
from tokenrelay.client.requests import Options
from tokenrelay.client.resumption import RetryPolicy
from tokenrelay.errors import TokenrelayError, UnavailableError
from tokenrelay.v1 import generation_pb2 as g

PATIENCE = 60.0  # seconds without progress after which a user gives up, which is then told as a failure
PAUSE = 0.2  # seconds that a user who got an error takes before the next call
DETACH = g.DISCONNECT_POLICY_DETACH


@dataclass(frozen=True)
class Wish:
    """What a user wants generated."""

    prompt: str
    sampling: dict[str, Any]


Wishes = Callable[[Random, int], Wish]
"""Makes up what the user of a call wants, from chance and the call's number."""


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
    kinds: dict[str, int] | None = None
    first: int = 1
    calls: int = 0
    tokens: int = 0
    finished: int = 0
    failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers = itertools.count(self.first)
        self._stopping = False
        self._running: list[asyncio.Task[None]] = []
        self._does = {
            "reads": self._reads,
            "reads_by_stub": self._reads_by_stub,
            "asks_for_all": self._asks_for_all,
            "submits": self._submits,
            "comes_back": self._comes_back,
            "cancels": self._cancels,
            "leaves": self._leaves,
        }
        self._weights = self.kinds or {
            "reads": 5,
            "reads_by_stub": 4,
            "asks_for_all": 1,
            "submits": 1,
            "comes_back": 2,
            "cancels": 1,
            "leaves": 1,
        }

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
            while True:
                kind = chance.choices(list(self._weights), weights=list(self._weights.values()))[0]
                call = next(self._numbers)
                failed = len(self.failed)
                await self._does[kind](client, targets, chance, call, self.wishes(chance, call))
                self.calls += 1
                if self._stopping:
                    return
                if len(self.failed) > failed:
                    await asyncio.sleep(PAUSE)

    def _note_call(self, call: int, client: str, method: str, wish: Wish) -> str:
        key = f"drill-{call}"
        self.history.note(
            "call",
            call=call,
            client=client,
            method=method,
            prompt=wish.prompt,
            max_tokens=wish.sampling["max_tokens"],
            key=key,
        )
        return key

    def _note_attach(self, client: str, generation_id: str, after: int) -> int:
        call = next(self._numbers)
        self.history.note("call", call=call, client=client, method="AttachGeneration", id=generation_id, after=after)
        return call

    def _note_delta(self, call: int, generation_id: str, sequence: int, delta: g.Delta) -> None:
        self.tokens += len(delta.token_ids)
        self.history.note(
            "delta", call=call, id=generation_id, sequence=sequence, tokens=list(delta.token_ids), text=delta.text
        )

    def _note_finished(self, call: int, generation_id: str, sequence: int, finished: g.Finished) -> None:
        self.finished += 1
        self.history.note(
            "finished",
            call=call,
            id=generation_id,
            sequence=sequence,
            digest=finished.digest.hex(),
            attempts=finished.attempts,
            exact=finished.exact,
        )

    def _note_failed(self, call: int, generation_id: str | None, error: TokenrelayError) -> None:
        self.failed.append(f"{error.reason}: {error.message}")
        self.history.note(
            "failed", call=call, id=generation_id or None, code=error.code, reason=error.reason, message=error.message
        )

    async def _follow(self, stream: AsyncStream, call: int, until: int | None = None) -> bool:
        """Reads a library's stream to its end, or past a sequence; tells whether it goes on."""
        known = bool(stream.generation_id)
        try:
            async for delta in stream:
                if not known:
                    known = True
                    self.history.note("accepted", call=call, id=stream.generation_id)
                self._note_delta(call, stream.generation_id, stream.position.sequence, delta)
                if until is not None and stream.position.sequence >= until:
                    return True
        except TokenrelayError as error:
            self._note_failed(call, stream.generation_id, error)
            return False
        assert stream.finished is not None
        if not known:
            self.history.note("accepted", call=call, id=stream.generation_id)
        self._note_finished(call, stream.generation_id, stream.position.sequence, stream.finished)
        return False

    async def _reads(self, client: AsyncClient, _: Sequence[str], __: Random, call: int, wish: Wish) -> None:
        key = self._note_call(call, "library", "GenerateStream", wish)
        async with client.stream(wish.prompt, options=Options(idempotency_key=key), **wish.sampling) as stream:
            await self._follow(stream, call)

    async def _cancels(self, client: AsyncClient, _: Sequence[str], chance: Random, call: int, wish: Wish) -> None:
        key = self._note_call(call, "library", "GenerateStream", wish)
        async with client.stream(wish.prompt, options=Options(idempotency_key=key), **wish.sampling) as stream:
            goes_on = await self._follow(stream, call, until=chance.randint(1, wish.sampling["max_tokens"]))
            if goes_on:
                self.history.note("left", call=call, id=stream.generation_id, why="cancelled")

    async def _asks_for_all(self, client: AsyncClient, _: Sequence[str], __: Random, call: int, wish: Wish) -> None:
        key = self._note_call(call, "library", "Generate", wish)
        try:
            whole = await client.generate(wish.prompt, options=Options(idempotency_key=key), **wish.sampling)
        except TokenrelayError as error:
            self._note_failed(call, error.generation_id, error)
            return
        self.history.note("accepted", call=call, id=whole.generation_id)
        (choice,) = whole.choices
        sequence = len(choice.token_ids)
        if sequence:
            delta = g.Delta(token_ids=choice.token_ids, text=choice.text)
            self._note_delta(call, whole.generation_id, sequence, delta)
        finished = g.Finished(digest=whole.digest, attempts=whole.attempts, exact=whole.exact)
        self._note_finished(call, whole.generation_id, sequence, finished)

    async def _submits(self, client: AsyncClient, _: Sequence[str], chance: Random, call: int, wish: Wish) -> None:
        """Has it run by itself, and reads it twice at the same time, the second time from somewhere in the middle."""
        key = self._note_call(call, "library", "SubmitGeneration", wish)
        try:
            name = await client.submit(wish.prompt, options=Options(idempotency_key=key), **wish.sampling)
        except TokenrelayError as error:
            self._note_failed(call, None, error)
            return
        self.history.note("accepted", call=call, id=name)
        self.history.note("left", call=call, id=name, why="left")
        first = self._note_attach("library", name, 0)
        async with client.attach(name) as reader:
            if not await self._follow(reader, first, until=chance.randint(1, wish.sampling["max_tokens"])):
                return
            middle = reader.position.sequence
            second = self._note_attach("library", name, middle)
            async with client.attach(name, after_sequence=middle) as other:
                await asyncio.gather(self._follow(reader, first), self._follow(other, second))

    async def _reads_by_stub(self, _: AsyncClient, targets: Sequence[str], __: Random, call: int, wish: Wish) -> None:
        stream = BareStream(targets, wish.prompt, wish.sampling, self._note_call(call, "stub", "GenerateStream", wish))
        await self._follow_bare(stream, call)

    async def _comes_back(self, _: AsyncClient, targets: Sequence[str], chance: Random, call: int, wish: Wish) -> None:
        """Hangs up in the middle, without a word, and joins again through another gateway."""
        stream = BareStream(targets, wish.prompt, wish.sampling, self._note_call(call, "stub", "GenerateStream", wish))
        stream.hang_up_after = chance.randint(1, wish.sampling["max_tokens"])
        await self._follow_bare(stream, call)

    async def _leaves(self, _: AsyncClient, targets: Sequence[str], chance: Random, call: int, wish: Wish) -> None:
        """Hangs up for good; what it has begun goes on."""
        key = self._note_call(call, "stub", "GenerateStream", wish)
        stream = BareStream(targets, wish.prompt, wish.sampling, key, policy=DETACH)
        stream.leave_after = chance.randint(1, wish.sampling["max_tokens"])
        if await self._follow_bare(stream, call):
            self.history.note("left", call=call, id=stream.generation_id, why="left")

    async def _follow_bare(self, stream: BareStream, call: int) -> bool:
        """Reads a stub's stream; tells whether it goes on without this reader."""
        clock = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(PATIENCE) as patience:
                async for event in stream.events():
                    patience.reschedule(clock() + PATIENCE)
                    kind = event.WhichOneof("event")
                    if kind == "accepted":
                        self.history.note("accepted", call=call, id=event.accepted.generation_id)
                    elif kind == "delta":
                        self._note_delta(call, stream.generation_id, event.sequence, event.delta)
                    else:
                        self._note_finished(call, stream.generation_id, event.sequence, event.finished)
        except TokenrelayError as error:
            self._note_failed(call, stream.generation_id, error)
            return False
        except TimeoutError:
            self._note_failed(call, stream.generation_id, UnavailableError(f"nothing came for {PATIENCE:.0f} s"))
            return False
        finally:
            with suppress(grpc.aio.AioRpcError):
                await stream.close()
        return not stream.is_over

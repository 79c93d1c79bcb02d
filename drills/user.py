"""One user of a drill: does what users do, by our library and by bare stubs, and writes down all that it sees."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from random import Random

import grpc

from drills.bare_client import BareStream
from drills.notebook import Notebook, Wish
from tokenrelay.client import AsyncClient
from tokenrelay.client.async_client import AsyncStream
from tokenrelay.client.requests import Options
from tokenrelay.errors import TokenrelayError, UnavailableError
from tokenrelay.v1 import generation_pb2 as g

DETACH = g.DISCONNECT_POLICY_DETACH


class User:
    """Makes calls, each kind with a method of its own.

    Args:
        targets: the gateways, in the order in which this user asks them.
        numbers: where it takes the numbers of further calls from.
        patience: seconds without progress after which it gives up, which is then told as a failure.
    """

    def __init__(
        self,
        client: AsyncClient,
        targets: Sequence[str],
        notes: Notebook,
        chance: Random,
        *,
        numbers: Iterator[int],
        patience: float,
    ) -> None:
        self._client = client
        self._targets = targets
        self._notes = notes
        self._chance = chance
        self._numbers = numbers
        self._patience = patience

    async def _follow(self, stream: AsyncStream, call: int, until: int | None = None) -> bool:
        """Reads a library's stream to its end, or past a sequence; tells whether it goes on."""
        known = bool(stream.generation_id)
        try:
            async for delta in stream:
                if not known:
                    known = True
                    self._notes.accepted(call, stream.generation_id)
                self._notes.delta(call, stream.generation_id, stream.position.sequence, delta)
                if until is not None and stream.position.sequence >= until:
                    return True
        except TokenrelayError as error:
            self._notes.was_told(call, stream.generation_id, error)
            return False
        assert stream.finished is not None
        if not known:
            self._notes.accepted(call, stream.generation_id)
        self._notes.ended(call, stream.generation_id, stream.position.sequence, stream.finished)
        return False

    def _note_attach(self, name: str, after: int) -> int:
        call = next(self._numbers)
        self._notes.attach(call, "library", name, after)
        return call

    async def reads(self, call: int, wish: Wish) -> None:
        key = self._notes.call(call, "library", "GenerateStream", wish)
        async with self._client.stream(wish.prompt, options=Options(idempotency_key=key), **wish.sampling) as stream:
            await self._follow(stream, call)

    async def cancels(self, call: int, wish: Wish) -> None:
        key = self._notes.call(call, "library", "GenerateStream", wish)
        async with self._client.stream(wish.prompt, options=Options(idempotency_key=key), **wish.sampling) as stream:
            goes_on = await self._follow(stream, call, until=self._chance.randint(1, wish.sampling["max_tokens"]))
            if goes_on:
                self._notes.left(call, stream.generation_id, "cancelled")

    async def asks_for_all(self, call: int, wish: Wish) -> None:
        key = self._notes.call(call, "library", "Generate", wish)
        try:
            whole = await self._client.generate(wish.prompt, options=Options(idempotency_key=key), **wish.sampling)
        except TokenrelayError as error:
            self._notes.was_told(call, error.generation_id, error)
            return
        self._notes.accepted(call, whole.generation_id)
        (choice,) = whole.choices
        sequence = len(choice.token_ids)
        if sequence:
            delta = g.Delta(token_ids=choice.token_ids, text=choice.text)
            self._notes.delta(call, whole.generation_id, sequence, delta)
        finished = g.Finished(digest=whole.digest, attempts=whole.attempts, exact=whole.exact)
        self._notes.ended(call, whole.generation_id, sequence, finished)

    async def submits(self, call: int, wish: Wish) -> None:
        """Has it run by itself, and reads it twice at the same time, the second time from somewhere in the middle."""
        key = self._notes.call(call, "library", "SubmitGeneration", wish)
        try:
            name = await self._client.submit(wish.prompt, options=Options(idempotency_key=key), **wish.sampling)
        except TokenrelayError as error:
            self._notes.was_told(call, None, error)
            return
        self._notes.accepted(call, name)
        self._notes.left(call, name, "left")
        first = self._note_attach(name, 0)
        async with self._client.attach(name) as reader:
            if not await self._follow(reader, first, until=self._chance.randint(1, wish.sampling["max_tokens"])):
                return
            middle = reader.position.sequence
            second = self._note_attach(name, middle)
            async with self._client.attach(name, after_sequence=middle) as other:
                await asyncio.gather(self._follow(reader, first), self._follow(other, second))

    async def reads_by_stub(self, call: int, wish: Wish) -> None:
        stream = BareStream(self._targets, wish.prompt, wish.sampling, self._notes.call(call, "stub", "GenerateStream", wish))
        await self._follow_bare(stream, call)

    async def comes_back(self, call: int, wish: Wish) -> None:
        """Hangs up in the middle, without a word, and joins again through another gateway."""
        stream = BareStream(self._targets, wish.prompt, wish.sampling, self._notes.call(call, "stub", "GenerateStream", wish))
        stream.hang_up_after = self._chance.randint(1, wish.sampling["max_tokens"])
        await self._follow_bare(stream, call)

    async def leaves(self, call: int, wish: Wish) -> None:
        """Hangs up for good; what it has begun goes on."""
        key = self._notes.call(call, "stub", "GenerateStream", wish)
        stream = BareStream(self._targets, wish.prompt, wish.sampling, key, policy=DETACH)
        stream.leave_after = self._chance.randint(1, wish.sampling["max_tokens"])
        if await self._follow_bare(stream, call):
            self._notes.left(call, stream.generation_id, "left")

    async def _follow_bare(self, stream: BareStream, call: int) -> bool:
        """Reads a stub's stream; tells whether it goes on without this reader."""
        clock = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout(self._patience) as patience:
                async for event in stream.events():
                    patience.reschedule(clock() + self._patience)
                    kind = event.WhichOneof("event")
                    if kind == "accepted":
                        self._notes.accepted(call, event.accepted.generation_id)
                    elif kind == "delta":
                        self._notes.delta(call, stream.generation_id, event.sequence, event.delta)
                    else:
                        self._notes.ended(call, stream.generation_id, event.sequence, event.finished)
        except TokenrelayError as error:
            self._notes.was_told(call, stream.generation_id, error)
            return False
        except TimeoutError:
            self._notes.was_told(call, stream.generation_id, UnavailableError(f"nothing came for {self._patience:.0f} s"))
            return False
        finally:
            with suppress(grpc.aio.AioRpcError):
                await stream.close()
        return not stream.is_over


KINDS: dict[str, tuple[int, Callable[[User, int, Wish], Awaitable[None]]]] = {
    "reads": (5, User.reads),
    "reads_by_stub": (4, User.reads_by_stub),
    "asks_for_all": (1, User.asks_for_all),
    "submits": (1, User.submits),
    "comes_back": (2, User.comes_back),
    "cancels": (1, User.cancels),
    "leaves": (1, User.leaves),
}
"""What a user can do, by name, and how often it does that if nobody says otherwise."""

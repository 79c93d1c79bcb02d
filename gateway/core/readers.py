"""One client's reading of one generation: submit or join, follow to the end, leave."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import structlog

from gateway.core.reports import Reports
from tokenrelay.calls import Call
from tokenrelay.errors import DataLossError, OutOfRangeError, StoreUnavailableError, TokenrelayError
from tokenrelay.identity.quotas import TokensLeft
from tokenrelay.store.feed import Feed
from tokenrelay.store.follower import Follower
from tokenrelay.store.protocols import GatewayStore
from tokenrelay.store.shards import Shards, damaged, not_found
from tokenrelay.store.values import Accepted, LogItem, Submission

log = structlog.get_logger(__name__)


@dataclass
class Reader:
    """A place in a token log. As long as the reader is open, its gateway has a reader lease on the generation.

    Attributes:
        tokens_left: what its acceptance has left of a limit; None if there is none, or if it was accepted before.
    """

    generation_id: str
    after: int
    follower: Follower
    at_end: bool = False
    tokens_left: TokensLeft | None = None

    async def next_items(self) -> Sequence[LogItem]:
        """Returns the log's next items, at least one, as soon as there are any; the terminal record is the last one of all."""
        items = await self.follower.next_items()
        self.at_end = items[-1].terminal is not None
        return items

    async def rest(self) -> list[LogItem]:
        """Returns all items to the end, once it is there."""
        items: list[LogItem] = []
        while not self.at_end:
            items += await self.next_items()
        return items


class Readers:
    """Opens and closes readers.

    Args:
        patience: seconds that a new call waits for Redis.
    """

    def __init__(
        self,
        *,
        store: GatewayStore,
        shards: Shards,
        feed: Feed,
        reports: Reports,
        patience: float,
    ) -> None:
        self._store = store
        self._shards = shards
        self._feed = feed
        self._reports = reports
        self._patience = patience
        self._leaving = False

    def leave(self) -> None:
        """Makes readers leave without a word, since this gateway stops.

        Its reader leases run out instead of being taken away, so that clients have time to come back through another gateway.
        """
        self._leaving = True

    async def submit_detached(self, submission: Submission, call: Call) -> Accepted:
        """Accepts a generation that nobody reads yet."""
        return await self._submit(submission, None, call)

    @asynccontextmanager
    async def submitted(self, submission: Submission, call: Call, *, end_only: bool = False) -> AsyncIterator[Reader]:
        """Accepts a generation and reads it from its beginning."""
        follower = self._feed.follow(submission.generation_id, 0, from_log=False, end_only=end_only)
        submitting = asyncio.ensure_future(self._submit(submission, follower.reader, call))
        try:
            # Shielded: a client that leaves in mid-submit would leave it open whether the generation is stored, and one
            # that is stored would run with nobody to cancel it.
            accepted = await asyncio.shield(submitting)
        except asyncio.CancelledError:
            await self._take_back(submitting, follower)
            raise
        except Exception:
            self._feed.unfollow(follower)
            raise
        if accepted.created:
            follower.is_accepted = True
            reader = Reader(accepted.generation_id, 0, follower, tokens_left=accepted.tokens_left)
            async with self._closing(reader, call, bound=True):
                yield reader
        else:
            self._feed.unfollow(follower)
            async with self.joined(accepted.generation_id, 0, call, end_only=end_only) as reader:
                yield reader

    @asynccontextmanager
    async def joined(self, generation_id: str, after: int, call: Call, *, end_only: bool = False) -> AsyncIterator[Reader]:
        """Reads a generation after a sequence.

        Raises:
            GenerationNotFoundError: the caller's tenant has none, or no longer.
            DataLossError: its data are damaged, or a failover may have lost the end of the log that the client has read.
            OutOfRangeError: the log has never gone as far as the client says.
        """
        self._shards.of(generation_id)
        follower = self._feed.follow(generation_id, after, from_log=True, end_only=end_only)
        reader = Reader(generation_id, after, follower)
        async with self._closing(reader, call, bound=False):
            lease = await self._feed.join(follower, call.caller.tenant, self._patience)
            if lease is None:
                raise not_found(generation_id)
            if lease.is_damaged:
                raise damaged(generation_id)
            if after > lease.last:
                if await self._store.is_unbroken(generation_id, patience=self._patience):
                    raise OutOfRangeError.of_field("after_sequence", f"is {after}; the log goes from 0 to {lease.last}")
                raise DataLossError(f"after_sequence is {after}, but the token log ends at {lease.last}: its end may be lost")
            log.debug("joined", generation_id=generation_id, after=after, state=lease.state, last=lease.last)
            yield reader

    @asynccontextmanager
    async def _closing(self, reader: Reader, call: Call, *, bound: bool) -> AsyncIterator[None]:
        """Leaves a generation at the end.

        Args:
            reader: whose place is left.
            call: the call that reads.
            bound: whether the call's deadline is the generation's own. If it has passed, the generation expires by itself,
                and is not to be cancelled before.
        """
        is_away = False
        try:
            yield
        except StoreUnavailableError:
            # To give the lease up now would keep the caller waiting for Redis once more. It runs out by itself.
            is_away = True
            raise
        finally:
            last = self._feed.unfollow(reader.follower)
            expires = bound and call.is_past_deadline()
            if not reader.at_end:
                log.debug("reader left", generation_id=reader.generation_id, last=last, expires=expires)
            # The terminal record took all reader leases with it.
            if last and not (self._leaving or expires or reader.at_end or is_away):
                # Shielded: the call is being cancelled, and a lease that stays would let the generation run on for it.
                await asyncio.shield(self._give_up_lease(reader.follower))

    async def _give_up_lease(self, follower: Follower) -> None:
        try:
            await self._feed.leave(follower)
        except StoreUnavailableError:
            log.warning("redis is away; a reader's lease runs out by itself", generation_id=follower.generation_id)

    async def _take_back(self, submitting: asyncio.Future[Accepted], follower: Follower) -> None:
        """Leaves a generation whose client left while it was being stored."""
        self._feed.unfollow(follower)
        with suppress(TokenrelayError):
            if (await submitting).created:
                await self._give_up_lease(follower)

    async def _submit(self, submission: Submission, reader: str | None, call: Call) -> Accepted:
        with self._reports.submitting(submission, call):
            accepted = await self._store.submit(
                submission, reader=reader, lease_ms=self._feed.lease_ms, patience=self._patience
            )
        self._reports.accepted(submission, accepted)
        return accepted

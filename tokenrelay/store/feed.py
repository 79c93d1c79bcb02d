"""Follows many token logs over one subscription.

The feed is fast but may lose anything; the log is the truth. A follower takes from the feed what fits its position and
reads the log for the rest: after a gap, after a reconnect, when its buffer grew past its bound, and when the check
that runs all the time finds its log ahead.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress

import structlog
from google.protobuf.message import DecodeError

from tokenrelay.errors import DataLossError, StoreUnavailableError, TokenrelayError
from tokenrelay.store import keys
from tokenrelay.store.follower import END_ONLY, LOST, Follower
from tokenrelay.store.log import Extent, TokenLog
from tokenrelay.store.protocols import GatewayStore
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import LogItem, ReaderLease

log = structlog.get_logger(__name__)

RENEWED_TOGETHER = 200  # reader leases in one script call
CHECK_INTERVAL = 0.5  # seconds between looks at all open logs


class Feed:
    """A gateway's subscription, and its followers.

    Args:
        gateway: this gateway's name, of which its channel is made.
        lease_ms: how long a reader lease holds without renewal; it is renewed every third of it.
    """

    def __init__(
        self, *, connection: RedisConnection, store: GatewayStore, token_log: TokenLog, gateway: str, lease_ms: int
    ) -> None:
        self.lease_ms = lease_ms
        self._connection = connection
        self._store = store
        self._log = token_log
        self._gateway = gateway
        self._followers: dict[str, list[Follower]] = {}
        self._renewing: asyncio.Task[list[ReaderLease | None]] | None = None
        self._behind: dict[Follower, int] = {}  # who was behind at the last look, and at which position

    def __len__(self) -> int:
        # The metrics endpoint asks on a thread of its own. list() copies at once, under the interpreter's lock; a generator
        # over the dictionary would see it change, and raise.
        return sum(map(len, list(self._followers.values())))

    def follow(self, generation_id: str, after: int, *, from_log: bool, end_only: bool = False) -> Follower:
        """Starts to follow. To be called before the lease is taken, so that nothing is missed in between.

        Args:
            generation_id: what to follow.
            after: the sequence after which to begin.
            from_log: whether the log may hold something already.
            end_only: whether only the terminal record is wanted; what comes before it may be left out.
        """
        follower = Follower(self._log, generation_id, after, self._gateway + (END_ONLY if end_only else ""))
        if from_log:
            follower.reread()
        self._followers.setdefault(generation_id, []).append(follower)
        return follower

    def unfollow(self, follower: Follower) -> bool:
        """Stops following; returns whether that was the last one of its generation under its reader's name here."""
        followers = self._followers.get(follower.generation_id, [])
        with suppress(ValueError):
            followers.remove(follower)
        if not followers:
            self._followers.pop(follower.generation_id, None)
        return not self._is_read(follower.generation_id, follower.reader)

    async def join(self, follower: Follower, tenant: str, patience: float) -> ReaderLease | None:
        """Takes a reader lease on a follower's generation; returns where it stands, None if the tenant has none such.

        Args:
            follower: whose generation is to be read.
            tenant: to which it must belong.
            patience: seconds to wait for Redis.
        """
        (lease,) = await self._store.renew_readers(
            follower.reader, self.lease_ms, [follower.generation_id], tenant=tenant, patience=patience
        )
        follower.is_accepted = lease is not None
        if lease is not None and not follower.is_waiting():  # it has not read yet
            follower.reread(Extent(lease.last, lease.is_over))
        return lease

    async def leave(self, follower: Follower) -> None:
        """Takes this gateway's reader lease away, which may start the generation's disconnect policy.

        Does nothing if somebody here has begun to read the generation meanwhile.
        """
        # A renewal that is under way was put together when this follower was still here. It may be repeated after a lost
        # connection, and if it came after our word it would undo it. So our word is sent when that is over.
        while self._renewing is not None:
            await asyncio.wait({self._renewing})
        if not self._is_read(follower.generation_id, follower.reader):
            await self._store.leave(follower.reader, follower.generation_id)
            log.debug("reader lease given up", generation_id=follower.generation_id)

    def _is_read(self, generation_id: str, reader: str) -> bool:
        return any(other.reader == reader for other in self._followers.get(generation_id, ()))

    def fail_all(self, error: TokenrelayError) -> None:
        """Ends all following with an error."""
        for follower in self._all():
            follower.fail(error)

    def _all(self) -> Iterator[Follower]:
        for followers in self._followers.values():
            yield from followers

    async def run(self) -> None:
        """Receives, checks and renews until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._receive())
            tasks.create_task(_repeat(self, self.check_once, CHECK_INTERVAL))
            tasks.create_task(_repeat(self, self.renew_once, self.lease_ms / 3000))

    async def _receive(self) -> None:
        async for messages in self._connection.subscribe(keys.feed_channel(self._gateway)):
            if messages is None:
                for follower in self._all():
                    follower.reread()
            else:
                for message in messages:
                    self.receive(message)

    def receive(self, message: bytes) -> None:
        """Hands one FeedFrame's entries to their followers."""
        try:
            entries = store_pb2.FeedFrame.FromString(message).entries
        except DecodeError:
            log.warning("a message on the feed is none of ours", bytes=len(message))
            return
        for entry in entries:
            followers = self._followers.get(entry.generation_id)
            if followers:
                _push(entry, followers)

    async def check_once(self) -> None:
        """Looks whether any open log is ahead of who waits for it; the feed may have lost its last message.

        Whoever is behind at two looks in a row reads the log. At one look what is missing may be on its way.
        """
        waiting = [follower for follower in self._all() if follower.is_waiting() and not follower.end_only]
        positions: dict[str, int] = {}
        for follower in waiting:
            name = follower.generation_id
            positions[name] = min(follower.position, positions.get(name, follower.position))
        ahead = await self._log.ahead(positions) if positions else set()
        behind = {
            follower: follower.position
            for follower in waiting
            if follower.generation_id in ahead
            and follower.is_waiting()
            and follower.position == positions[follower.generation_id]
        }
        for follower, position in behind.items():
            if self._behind.get(follower) == position:
                follower.reread()
        self._behind = behind

    async def renew_once(self) -> None:
        """Renews the reader leases, and finds ends that the feed has lost; a generation that is gone is lost data."""
        by_reader: dict[str, list[Follower]] = {}
        for follower in self._all():
            if follower.is_accepted:
                by_reader.setdefault(follower.reader, []).append(follower)
        for reader, followers in by_reader.items():
            # In parts, since Redis does nothing else while a script runs.
            for start in range(0, len(followers), RENEWED_TOGETHER):
                await self._renew(reader, followers[start : start + RENEWED_TOGETHER])

    async def _renew(self, reader: str, followers: Sequence[Follower]) -> None:
        # Who has left since the list was made is not renewed, or that would undo the leaving.
        still = [(one, one.position) for one in followers if one in self._followers.get(one.generation_id, ())]
        if not still:
            return
        ids = [follower.generation_id for follower, _ in still]
        self._renewing = asyncio.create_task(self._store.renew_readers(reader, self.lease_ms, ids))
        try:
            leases = await self._renewing
        finally:
            self._renewing.cancel()
            self._renewing = None
        for (follower, position), lease in zip(still, leases, strict=True):
            _compare(follower, position, lease)


def _item(entry: store_pb2.FeedEntry) -> LogItem:
    if entry.WhichOneof("kind") == "terminal":
        return LogItem(entry.sequence, None, store_pb2.Terminal.FromString(entry.terminal), entry.appended_us)
    return LogItem(entry.sequence, store_pb2.LogEntry.FromString(entry.log_entry))


def _compare(follower: Follower, position: int, lease: ReaderLease | None) -> None:
    """Compares where a follower was when its lease was renewed with where its generation stood."""
    if lease is None or lease.is_damaged or lease.last < position:
        log.error("the log of a followed generation is lost", generation_id=follower.generation_id, sent=position)
        follower.fail(DataLossError(LOST))
    elif not follower.is_waiting() or follower.position != position:
        return  # it goes on by itself
    elif lease.is_over or (lease.last > position and not follower.end_only):
        # The feed has lost this, or the log has.
        follower.reread(Extent(lease.last, lease.is_over))


def _push(entry: store_pb2.FeedEntry, followers: Sequence[Follower]) -> None:
    try:
        item = _item(entry)
    except DecodeError:
        log.warning("an entry on the feed is none of ours", generation_id=entry.generation_id)
        for follower in followers:
            follower.reread()
        return
    for follower in followers:
        follower.push(item, len(entry.log_entry) or len(entry.terminal))


async def _repeat(feed: Feed, once: Callable[[], Awaitable[None]], interval: float) -> None:
    while True:
        await asyncio.sleep(interval)
        try:
            await once()
        except StoreUnavailableError:
            log.warning("redis is away; streams wait", followers=len(feed))

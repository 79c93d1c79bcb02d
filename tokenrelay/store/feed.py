"""Follows many token logs over one subscription.

The feed is fast but may lose anything; the log is the truth. A follower takes from the feed what fits its position and
reads the log for the rest: after a gap, after a reconnect, when its buffer grew past its bound, and when the check
that runs all the time finds its log ahead.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import structlog

from tokenrelay.errors import DataLossError, StoreUnavailableError, TokenrelayError
from tokenrelay.store import keys
from tokenrelay.store.log import PAGE, TokenLog
from tokenrelay.store.protocols import GatewayStore
from tokenrelay.store.redis.connection import RedisConnection
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.values import LogItem, ReaderLease
from tokenrelay.v1 import generation_pb2

log = structlog.get_logger(__name__)

END_ONLY = "!"  # at the end of a reader's name: entries are not fed, only the terminal record
CHECK_INTERVAL = 0.5  # seconds between looks at all open logs
BUFFER_BYTES = 256 * 1024  # what one follower may hold; past it, it forgets and reads the log again
ITEM_BYTES = 640  # what an item takes in memory beside its own bytes, which for one token are about twenty

LOST = "the token log is gone, or has lost what was already sent"


class Follower:
    """One reader's place in one token log.

    Attributes:
        reader: the name under which its gateway has a reader lease on the generation; see END_ONLY.
        is_accepted: whether Redis has said that the generation is there. Before, it is no loss if it is not.
    """

    def __init__(self, token_log: TokenLog, generation_id: str, after: int, reader: str) -> None:
        self.generation_id = generation_id
        self.reader = reader
        self.is_accepted = False
        self._log = token_log
        self._position = after  # the last sequence that was handed out
        self._is_at_boundary = after == 0  # whether an entry ends there; a client may join anywhere
        self._buffer: list[LogItem] = []
        self._buffered_to = after  # the last sequence in the buffer
        self._buffered_bytes = 0
        self._must_read = False
        self._failure: TokenrelayError | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def position(self) -> int:
        return self._position

    @property
    def end_only(self) -> bool:
        """Whether only the terminal record is of interest."""
        return self.reader.endswith(END_ONLY)

    def is_waiting(self) -> bool:
        """Tells whether it has nothing to hand out."""
        return not (self._must_read or self._buffer)

    def push(self, item: LogItem, size: int) -> None:
        """Takes an item of the feed if it is the next one."""
        if self._must_read or item.sequence < self._buffered_to or (self._buffer and self._buffer[-1].terminal):
            return
        follows = item.sequence == self._buffered_to
        if item.entry is not None:
            if follows:
                return
            follows = item.sequence - item.entry.token_count == self._buffered_to
        if not follows or self._buffered_bytes + size + ITEM_BYTES > BUFFER_BYTES:
            self.reread()
            return
        self._buffer.append(item)
        self._buffered_to = item.sequence
        self._buffered_bytes += size + ITEM_BYTES
        self._wake()

    def reread(self) -> None:
        """Forgets the buffer; the next items come from the log."""
        self._clear()
        self._must_read = True
        self._wake()

    def fail(self, error: TokenrelayError) -> None:
        """Ends the following with an error, after what is buffered."""
        self._failure = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def next_items(self) -> list[LogItem]:
        """Returns the next items, at least one, as soon as there are any.

        Raises:
            DataLossError: the log is gone, or has lost what was handed out before.
            StoreUnavailableError: the log could not be read for longer than the connection's patience.
        """
        while True:
            if self._must_read:
                items = await self._read()
                if items:
                    return items
            elif self._buffer:
                items = self._buffer
                self._position = self._buffered_to
                self._clear()
                return items
            elif self._failure is not None:
                raise self._failure
            if not (self._must_read or self._buffer or self._failure):  # as may have become so while the log was read
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter

    async def _read(self) -> list[LogItem]:
        # What is pushed while the log is read is buffered again, so that nothing falls between the two.
        self._must_read = False
        self._clear()
        try:
            items = await self._log.read(self.generation_id, self._position)
        except BaseException:
            self._must_read = True
            raise
        if len(items) == PAGE:
            self._must_read = True
            self._clear()
        if items:
            if self._is_at_boundary and _begins_at(items[0]) < self._position:
                # A new primary of Redis lacked the log's end, and the log has grown again, with other boundaries. Its tokens
                # may be others too, and to hand out this entry would repeat some.
                raise DataLossError(LOST)
            self._is_at_boundary = True
            self._position = items[-1].sequence
            self._join()
        return items

    def _join(self) -> None:
        """Keeps of the buffer what comes after the position, if it follows on."""
        pushed, self._buffer = self._buffer, []
        self._buffered_to, self._buffered_bytes = self._position, 0
        for item in pushed:
            self.push(item, 0)

    def _clear(self) -> None:
        self._buffer = []
        self._buffered_to = self._position
        self._buffered_bytes = 0


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
        return all(other.reader != follower.reader for other in followers)

    async def join(self, follower: Follower, patience: float) -> ReaderLease | None:
        """Takes a reader lease on a follower's generation; returns where it stands, None if it is gone.

        Args:
            follower: whose generation is to be read.
            patience: seconds to wait for Redis.
        """
        (lease,) = await self._store.renew_readers(follower.reader, self.lease_ms, [follower.generation_id], patience)
        follower.is_accepted = lease is not None
        return lease

    async def leave(self, follower: Follower) -> None:
        """Takes this gateway's reader lease away, which may start the generation's disconnect policy."""
        await self._store.leave(follower.reader, follower.generation_id)

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
            tasks.create_task(self._repeat(self.check_once, CHECK_INTERVAL))
            tasks.create_task(self._repeat(self.renew_once, self.lease_ms / 3000))

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
        entries = store_pb2.FeedFrame.FromString(message).entries
        for entry in entries:
            followers = self._followers.get(entry.generation_id)
            if followers:
                item = _item(entry)
                for follower in followers:
                    follower.push(item, len(entry.log_entry) or len(entry.terminal))

    async def _repeat(self, once: Callable[[], Awaitable[None]], interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            try:
                await once()
            except StoreUnavailableError:
                log.warning("redis is away; streams wait", followers=len(self))

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
        by_reader: dict[str, list[tuple[Follower, int]]] = {}
        for follower in self._all():
            if follower.is_accepted:
                by_reader.setdefault(follower.reader, []).append((follower, follower.position))
        for reader, followers in by_reader.items():
            ids = [follower.generation_id for follower, _ in followers]
            leases = await self._store.renew_readers(reader, self.lease_ms, ids)
            for (follower, position), lease in zip(followers, leases, strict=True):
                if lease is None or lease.last < position:
                    follower.fail(DataLossError(LOST))
                elif lease.state > generation_pb2.GENERATION_STATE_RUNNING and follower.is_waiting():
                    follower.reread()


def _begins_at(item: LogItem) -> int:
    """Returns the sequence before an item."""
    return item.sequence if item.entry is None else item.sequence - item.entry.token_count


def _item(entry: store_pb2.FeedEntry) -> LogItem:
    if entry.WhichOneof("kind") == "terminal":
        return LogItem(entry.sequence, None, store_pb2.Terminal.FromString(entry.terminal), entry.appended_us)
    return LogItem(entry.sequence, store_pb2.LogEntry.FromString(entry.log_entry))

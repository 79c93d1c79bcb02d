"""One reader's place in one token log: what the feed brings and fits is handed out, all else is read from the log."""

import asyncio

from tokenrelay.errors import TokenrelayError
from tokenrelay.store.log import PAGE, Extent, TokenLog, check
from tokenrelay.store.values import LogItem

END_ONLY = "!"  # at the end of a reader's name: entries are not fed, only the terminal record
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
        self._extent = Extent()
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

    def reread(self, extent: Extent | None = None) -> None:
        """Forgets the buffer; the next items come from the log.

        Args:
            extent: how far the log goes at least at this moment, if that is known. If it is then found shorter, it is lost.
        """
        self._clear()
        self._must_read = True
        if extent is not None:
            self._extent = extent
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
            DataLossError: the log is gone, or lacks something.
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
        # What was known before the read holds for it, and for its last page only. Kept longer, it would call a log lost that
        # a failover has set back behind what was never sent.
        extent = self._extent
        try:
            items = await self._log.read(self.generation_id, self._position)
        except BaseException:
            self._must_read = True
            raise
        # If a new primary of Redis lacked the end of the log and that has grown again, its entries end elsewhere. Tokens may be
        # others too, and to hand out an entry that begins before our place would repeat some.
        check(self.generation_id, items, self._position, extent, may_begin_before=not self._is_at_boundary)
        if len(items) == PAGE:
            self._must_read = True
            self._clear()
        elif self._extent is extent:
            self._extent = Extent()
        if items:
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

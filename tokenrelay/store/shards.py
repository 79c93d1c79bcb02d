"""The shards of this installation: which there are, and in which a generation lies."""

from collections.abc import Iterator

from tokenrelay.errors import DataLossError, GenerationNotFoundError
from tokenrelay.store import keys


class Shards:
    """All shards, in order.

    Args:
        count: how many there are; the same for all processes.
    """

    def __init__(self, count: int) -> None:
        self._all = range(count)

    def __iter__(self) -> Iterator[int]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, shard: int) -> bool:
        return shard in self._all

    def of(self, generation_id: str) -> int:
        """Returns the shard of an id from outside.

        Raises:
            GenerationNotFoundError: it is no id of ours.
        """
        shard = keys.shard_of(generation_id)
        if shard is None or shard not in self._all:
            raise not_found(generation_id)
        return shard


def not_found(generation_id: str) -> GenerationNotFoundError:
    """Returns the error for an unknown and for an expired id alike."""
    return GenerationNotFoundError(f"generation_id: there is no generation {generation_id[:64]!r}, or no longer")


def damaged(generation_id: str) -> DataLossError:
    """Returns the error for a generation whose record or log is not as we write them, or lacks something."""
    return DataLossError(f"the data of generation {generation_id} in Redis are damaged or incomplete")

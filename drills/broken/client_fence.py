"""The worker asks whether it still owns a generation, and then writes; the script does not look again."""

from collections.abc import Sequence

from drills.broken import scripts
from tokenrelay.store import keys
from tokenrelay.store.attempts import Attempts
from tokenrelay.store.values import Append, Finish, Outcome, WriteResults


def install() -> None:
    scripts.alter(append=[scripts.APPEND_WITHOUT_FENCE, scripts.APPEND_AT_THE_END], finish=[scripts.FINISH_ANYWHERE])
    write = Attempts.write

    async def owns(attempts: Attempts, append: Append) -> bool:
        key = keys.record(append.generation_id, keys.shard_of_ours(append.generation_id))
        record = await attempts._connection.hash(key)
        return record.get(b"fence", b"").decode() == append.fence

    async def write_if_owned(attempts: Attempts, appends: Sequence[Append], finishes: Sequence[Finish] = ()) -> WriteResults:
        owned = [append for append in appends if await owns(attempts, append)]
        written = await write(attempts, owned, finishes)
        outcomes = dict(zip(owned, written.appended, strict=True))
        return written._replace(appended=[outcomes.get(append, Outcome.FENCED) for append in appends])

    Attempts.write = write_if_owned  # type: ignore[method-assign, assignment]

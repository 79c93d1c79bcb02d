"""The worker asks whether it still owns a generation, and then writes; the script does not look again."""

from collections.abc import Sequence

from drills.broken import scripts
from tokenrelay.store import keys
from tokenrelay.store.generations import GenerationStore
from tokenrelay.store.values import Addition, Ending, Outcome, Written


def install() -> None:
    scripts.alter(append=[scripts.APPEND_WITHOUT_FENCE, scripts.APPEND_AT_THE_END], finish=[scripts.FINISH_ANYWHERE])
    write = GenerationStore.write

    async def owns(store: GenerationStore, addition: Addition) -> bool:
        record = await store.connection.hash(keys.record(addition.generation_id, store.shard(addition.generation_id)))
        return record.get(b"fence", b"").decode() == addition.fence

    async def write_if_owned(store: GenerationStore, additions: Sequence[Addition], endings: Sequence[Ending] = ()) -> Written:
        owned = [addition for addition in additions if await owns(store, addition)]
        written = await write(store, owned, endings)
        outcomes = dict(zip(owned, written.appended, strict=True))
        return written._replace(appended=[outcomes.get(addition, Outcome.FENCED) for addition in additions])

    GenerationStore.write = write_if_owned  # type: ignore[method-assign, assignment]

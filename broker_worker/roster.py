"""The executions in a worker's hands: found by the engine session's key and by generation id, counted in slots."""

import asyncio
from collections.abc import Callable

from broker_worker.execution import Execution, State
from tokenrelay.metrics import WorkerMetrics


class Roster:
    """Holds executions from their claim until they are over.

    Args:
        metrics: gets how many there are.
        on_capacity: called whenever slots of the engine become free.
    """

    def __init__(self, metrics: WorkerMetrics, on_capacity: Callable[[], None]) -> None:
        self._metrics = metrics
        self._on_capacity = on_capacity
        self._by_key: dict[int, Execution] = {}
        self._by_id: dict[str, Execution] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._by_key)

    @property
    def executions(self) -> list[Execution]:
        """A copy, since what is done with them often ends them."""
        return list(self._by_key.values())

    @property
    def used_slots(self) -> int:
        return sum(execution.slots for execution in self._by_key.values())

    @property
    def has_only_cleared_suspects(self) -> bool:
        """Whether all that runs came as suspects and is proven since; true if nothing runs."""
        return all(one.record.is_suspect and one.state is State.PROVEN for one in self._by_key.values())

    def by_key(self, key: int) -> Execution | None:
        """Returns the execution that the engine session knows by a number; None if it is over."""
        return self._by_key.get(key)

    def by_id(self, generation_id: str) -> Execution | None:
        """Returns the newest execution of a generation; None if this worker has none."""
        return self._by_id.get(generation_id)

    def owned(self) -> list[tuple[str, str]]:
        """Returns the ids of all generations here, each with its fence. May be called from another thread."""
        # list() copies the values without running Python code in between, so the lease keeper's thread never sees the dict
        # change while it iterates: a comprehension over the dict itself could raise RuntimeError there.
        executions = list(self._by_key.values())
        return [(execution.generation_id, execution.fence) for execution in executions]

    def add(self, execution: Execution) -> None:
        """Takes an execution. The newest one of a generation is the one that by_id returns."""
        self._by_key[execution.key] = self._by_id[execution.generation_id] = execution
        self._idle.clear()
        self._metrics.running.set(len(self))

    def remove(self, execution: Execution) -> None:
        """Lets an execution go; nothing happens if it is over already."""
        if self._by_key.get(execution.key) is not execution:
            return
        execution.let_go()
        del self._by_key[execution.key]
        # A paused worker may have claimed the generation again. The entry is the newer execution's then, and stays.
        if self._by_id.get(execution.generation_id) is execution:
            del self._by_id[execution.generation_id]
        self._metrics.running.set(len(self))
        if not self._by_key:
            self._idle.set()
        self._on_capacity()

    def prove(self, execution: Execution, at_us: int) -> bool:
        """Notes that tokens of an execution are durable; returns whether they are its first. A suspect frees slots by that."""
        before = execution.slots
        is_first = execution.prove(at_us)
        if execution.slots < before:
            self._on_capacity()
        return is_first

    async def wait_until_idle(self) -> None:
        """Returns once nothing is here."""
        await self._idle.wait()

"""All entries that this worker has read from the queue and not begun, by what they wait for."""

from collections.abc import Iterable, Sequence, Set

from broker_worker.admission_queue import AdmissionQueue, Candidate, Load
from broker_worker.changes import Changes
from tokenrelay.metrics import WorkerMetrics
from tokenrelay.store.values import QueueEntry


class ReadAhead:
    """Entries that wait for room in the engine, that are being claimed, and that only another engine can go on with.

    The last ones stay pending on this worker. Handed back, they would be read here again at once, since whoever reads first
    gets them; as they are, a worker with the right engine finds and adopts them.

    Attributes:
        queue: those that wait for room.
    """

    def __init__(self, metrics: WorkerMetrics, changes: Changes) -> None:
        self._metrics = metrics
        self._changes = changes
        self.queue = AdmissionQueue()
        self._claiming: list[Candidate] = []
        self._elsewhere: list[Candidate] = []

    def knows(self, generation_id: str) -> bool:
        """Tells whether a generation's entry is here."""
        others = (candidate.entry for candidate in (*self._claiming, *self._elsewhere))
        return any(entry.generation_id == generation_id for entry in (*self.queue, *others))

    @property
    def claiming(self) -> list[QueueEntry]:
        """What is being claimed."""
        return [candidate.entry for candidate in self._claiming]

    @property
    def elsewhere(self) -> list[QueueEntry]:
        """What only another engine can go on with."""
        return [candidate.entry for candidate in self._elsewhere]

    @property
    def wants_more(self) -> bool:
        """Whether all that was read has been claimed, except for suspects that let others pass."""
        return not self.queue.ordinary and not self.queue.holds_back

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits for this worker's engine, and nothing is being claimed."""
        return not self.queue and not self._claiming

    def add(self, entries: Iterable[QueueEntry]) -> None:
        """Takes what was read."""
        self.queue.add(entries)
        self.report()

    def adopt(self, entries: Sequence[QueueEntry]) -> None:
        """Takes entries that another worker has read; who claims first has them."""
        self.add([entry for entry in entries if not self.knows(entry.generation_id)])

    def take(self, load: Load, most: int) -> list[Candidate]:
        """Takes out what may be claimed together; settle or put_back must follow."""
        self._claiming = self.queue.take(load, most)
        return self._claiming

    def put_back(self) -> None:
        """Takes back what was to be claimed, with its nonces: whether it was claimed is not known."""
        self.queue.put_back(self._claiming)
        self._claiming = []

    def settle(self, elsewhere: Sequence[Candidate] = ()) -> None:
        """Notes that what was taken is claimed, or was refused, or can only go on elsewhere."""
        self._elsewhere += elsewhere
        self._claiming = []
        self.report()

    def revise_elsewhere(self, *, gone: Set[QueueEntry], again: Set[QueueEntry]) -> None:
        """Forgets some of the entries that only another engine can go on with, and has others claimed again."""
        self.queue.put_back([candidate for candidate in self._elsewhere if candidate.entry in again])
        self._elsewhere = [candidate for candidate in self._elsewhere if candidate.entry not in gone | again]
        self.report()

    def clear(self) -> list[QueueEntry]:
        """Takes out everything that is not being claimed."""
        left = [*self.queue.clear(), *self.elsewhere]
        self._elsewhere = []
        self.report()
        return left

    def report(self) -> None:
        """Updates the metric, and has those look again who wait for a change."""
        self._metrics.prefetched.set(len(self.queue))
        self._changes.notify()

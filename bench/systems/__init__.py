"""The systems that are compared: each starts its processes, says which they are, and gives a client."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from bench.load.measuring import Target


class System(Protocol):
    """One way to serve a model on this machine.

    Attributes:
        name: what tables call it.
    """

    name: str

    async def start(self) -> None:
        """Starts its processes and returns once they serve."""

    def target(self) -> Target:
        """Returns a client of it."""

    def processes(self) -> Mapping[str, Sequence[int]]:
        """Returns its process ids by what they are for; "engine" are vLLM's own."""

    async def close(self) -> None:
        """Ends its processes."""

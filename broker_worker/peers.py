"""Which engine fingerprints are served, so that a generation with tokens is left to an engine like the one they came from."""

import asyncio
import time

import structlog

from tokenrelay.errors import TokenrelayError
from tokenrelay.store.worker_directory import WorkerDirectory

log = structlog.get_logger(__name__)

INTERVAL = 1.0  # seconds between looks into the directory
GRACE = 5.0  # seconds for which a fingerprint still counts after its last worker left, because one that restarts comes back


class Peers:
    """The fingerprints of the engines that serve a model, as the worker directory had them lately."""

    def __init__(self, directory: WorkerDirectory, model: str) -> None:
        self._directory = directory
        self._model = model
        self._seen: dict[str, float] = {}

    @property
    def fingerprints(self) -> set[str]:
        """Those that are served, or were until a moment ago."""
        oldest = time.monotonic() - GRACE
        return {fingerprint for fingerprint, seen in self._seen.items() if seen >= oldest}

    async def refresh(self) -> None:
        """Looks once. What is not known does no harm for long: a generation that is left to nobody is tried again."""
        try:
            found = await self._directory.live_fingerprints(self._model)
        except TokenrelayError as error:
            log.debug("the worker directory cannot be read", reason=str(error))
            # As when nothing has changed: a Redis that is away is no reason to give a stream up.
            found = self.fingerprints
        now = time.monotonic()
        self._seen |= dict.fromkeys(found, now)

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(INTERVAL)

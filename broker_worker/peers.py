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
        self._looked: float | None = None  # when the directory was last read

    @property
    def fingerprints(self) -> set[str]:
        """Those that were served at the last look, or a moment before."""
        return set(self._seen)

    async def refresh(self) -> None:
        """Looks once. If the directory cannot be read, all stays as it was: an outage is no reason to give a stream up."""
        try:
            found = await self._directory.live_fingerprints(self._model)
        except TokenrelayError as error:
            log.debug("the worker directory cannot be read", reason=str(error))
            return
        now = time.monotonic()
        if self._looked is not None and now - self._looked > GRACE / 2:
            # Redis was away, or this worker was paused. Others may not have been able to announce themselves either.
            found |= self.fingerprints
        self._looked = now
        self._seen |= dict.fromkeys(found, now)
        self._seen = {fingerprint: seen for fingerprint, seen in self._seen.items() if seen >= now - GRACE}

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            await self.refresh()
            await asyncio.sleep(INTERVAL)

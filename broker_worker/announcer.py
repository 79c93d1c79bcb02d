"""Announces this worker and its engine in the worker directory, so that gateways know the model and workers each other."""

import asyncio
from collections.abc import Callable

import structlog

from broker_worker.roster import Roster
from tokenrelay.engine.v1 import engine_service_pb2
from tokenrelay.errors import TokenrelayError
from tokenrelay.store.v1 import store_pb2
from tokenrelay.store.worker_directory import ANNOUNCE_INTERVAL, WorkerDirectory
from tokenrelay.v1 import model_service_pb2

log = structlog.get_logger(__name__)


class Announcer:
    """Announces one engine session.

    Args:
        is_draining: tells whether this worker takes nothing more; it does not count as serving then, but still as alive.
    """

    def __init__(
        self,
        *,
        worker_id: str,
        directory: WorkerDirectory,
        model: engine_service_pb2.DescribeEngineResponse,
        roster: Roster,
        is_draining: Callable[[], bool],
    ) -> None:
        self._worker_id = worker_id
        self._directory = directory
        self._model = model
        self._roster = roster
        self._is_draining = is_draining

    async def run(self) -> None:
        """Announces again and again, until cancelled."""
        while True:
            try:
                await self._directory.announce(self.announcement())
            except TokenrelayError as error:
                log.warning("this worker cannot announce itself", reason=str(error))
            await asyncio.sleep(ANNOUNCE_INTERVAL)

    async def leave(self) -> None:
        """Takes this worker out of the directory."""
        try:
            await self._directory.leave(self._worker_id, self._model.model)
        except TokenrelayError as error:
            log.warning("this worker cannot sign off; it is forgotten after a while", reason=str(error))

    def announcement(self) -> store_pb2.WorkerAnnouncement:
        """Returns what there is to say now."""
        described = self._model
        model = model_service_pb2.Model(
            name=described.model,
            engine=described.engine,
            engine_version=described.engine_version,
            max_model_len=described.max_model_len,
            vocabulary_size=described.vocabulary_size,
            fingerprint=described.fingerprint,
            workers=1,
            slots=described.slots,
            running=min(self._roster.used_slots, described.slots),
        )
        return store_pb2.WorkerAnnouncement(worker_id=self._worker_id, model=model, draining=self._is_draining())

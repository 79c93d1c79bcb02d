"""grpc.health.v1: whether the server and each of its services serve.

grpcio-health-checking's servicer is not used: its Watch writes while it holds the lock that a change of status takes, so
that one client that does not read its Watch holds up every change, and with it the end of the process.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

Status = health_pb2.HealthCheckResponse
WHOLE_SERVER = ""  # the name under which the protocol has the server itself


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # its package has no types
    """Tells of a status that the process sets; NOT_SERVING at first.

    Args:
        services: the full names of the services, whose status is the server's.
    """

    def __init__(self, services: Sequence[str]) -> None:
        self._statuses = dict.fromkeys((WHOLE_SERVER, *services), Status.NOT_SERVING)
        self._changed = asyncio.Event()

    def set_serving(self, serving: bool) -> None:
        """Sets the status of everything, at once and whatever clients do; watchers are told as they read."""
        status = Status.SERVING if serving else Status.NOT_SERVING
        self._statuses = dict.fromkeys(self._statuses, status)
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> Any:
        """Tells one status; NOT_FOUND for a service that there is not, as the protocol wants it."""
        status = self._statuses.get(request.service)
        if status is None:
            return await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return Status(status=status)

    async def List(self, request: health_pb2.HealthListRequest, context: Any) -> Any:
        """Tells all statuses."""
        statuses = {name: Status(status=status) for name, status in self._statuses.items()}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        """Writes the status, and again whenever it has changed; what changed while a write took long is left out."""
        told = None
        while True:
            # Taken before the status is looked at: a change that comes during the write sets this very event.
            changed = self._changed
            status = self._statuses.get(request.service, Status.SERVICE_UNKNOWN)
            if status != told:
                await context.write(Status(status=status))
                told = status
            await changed.wait()

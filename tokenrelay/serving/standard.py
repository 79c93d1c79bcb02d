"""The standard services that each of our servers has beside its own: health, and reflection if it is wanted."""

from collections.abc import Sequence
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from tokenrelay.serving import reflection
from tokenrelay.serving.health_servicer import HealthServicer
from tokenrelay.settings import ServerSettings

HEALTH_SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


def add_standard_services(server: Any, services: Sequence[str], settings: ServerSettings) -> HealthServicer:
    """Adds them to a server; returns the one whose status the process sets.

    Args:
        server: takes servicers as grpc.aio.server does.
        services: the full names of the process' own services.
        settings: whether reflection is wanted.
    """
    health = HealthServicer(services)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    if settings.reflection:
        reflection.add_to_server((*services, HEALTH_SERVICE), server)
    return health

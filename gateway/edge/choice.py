"""Which server takes the connections: gRPC's own, or Envoy if the settings say so."""

import structlog

from gateway.settings import GatewaySettings
from tokenrelay.lifecycle import Application

log = structlog.get_logger(__name__)


def choose(settings: GatewaySettings) -> Application:
    """Returns the gateway with the edge that the settings name; says so in one line."""
    log.info("edge chosen", edge=settings.edge, why="TOKENRELAY_EDGE" if "edge" in settings.model_fields_set else "default")
    if settings.edge == "envoy":
        # The application logs as the gateway, from inside Envoy.
        structlog.contextvars.bind_contextvars(process="gateway-envoy")
        from gateway.edge.envoy import EnvoyGateway  # noqa: PLC0415  # each edge imports what it needs alone

        return EnvoyGateway(settings)
    from gateway.app import GatewayApplication  # noqa: PLC0415  # as above; it costs Envoy's parent 30 MiB

    return GatewayApplication(settings)

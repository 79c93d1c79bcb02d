"""Which server takes the connections: gRPC's own, or Envoy if the settings say so."""

import structlog

from gateway.edge.envoy import EnvoyGateway
from gateway.edge.installation import Installation, NotInstalledError
from gateway.settings import GatewaySettings
from tokenrelay.lifecycle import Application
from tokenrelay.start_up import SettingError

log = structlog.get_logger(__name__)


def choose(settings: GatewaySettings) -> Application:
    """Returns the gateway with the edge that the settings name; says so in one line.

    Raises:
        SettingError: the settings name Envoy, and it cannot run here, or cannot do what they ask for.
    """
    if settings.edge == "grpcio":
        from gateway.app import GatewayApplication  # noqa: PLC0415  # Envoy's parent needs none of it; it costs 30 MiB

        log.info("edge chosen", edge="grpcio", why="TOKENRELAY_EDGE is grpcio, or unset")
        return GatewayApplication(settings)
    if settings.tls_certificate is not None:
        raise SettingError("TOKENRELAY_EDGE", "is envoy, which has no TLS yet; unset TOKENRELAY_TLS_CERTIFICATE, or use grpcio")
    try:
        installation = Installation.find()
    except NotInstalledError as error:
        raise SettingError("TOKENRELAY_EDGE", f"is envoy, but {error}; use grpcio") from None
    log.info("edge chosen", edge="envoy", why="TOKENRELAY_EDGE is envoy")
    return EnvoyGateway(settings, installation)

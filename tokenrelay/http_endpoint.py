"""The small HTTP server beside each process: /metrics for Prometheus, /healthz for probes.

It runs on a thread of its own, so that it answers while the event loop is busy.
"""

import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from tokenrelay import addresses
from tokenrelay.start_up import SettingError

HealthCheck = Callable[[], str | None]  # what is wrong, or None if nothing is


class HttpEndpoint:
    """Serves a registry and a health check until closed.

    Args:
        host: a name, an IPv4 address, or an IPv6 address with or without brackets.
        port: the port; 0 takes a free one.
        registry: what /metrics shows. It is read on this server's threads, so its gauges must not walk through
            collections that the event loop changes.
        health: says what is wrong for /healthz; called on this server's threads too.

    Raises:
        SettingError: the address cannot be had.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, health: HealthCheck) -> None:
        server = _Ipv6Server if addresses.is_ipv6(host) else _Server
        try:
            self._server = make_server(addresses.bare(host), port, _application(registry, health), server, _QuietHandler)
        except (OSError, UnicodeError) as error:
            # A name that cannot be written as a DNS name is a UnicodeError.
            problem = (error.strerror if isinstance(error, OSError) else None) or "the host is not a name or an address"
            raise SettingError(
                "TOKENRELAY_METRICS_HOST, TOKENRELAY_METRICS_PORT",
                f"cannot listen on {addresses.join(host, port)}: {problem}",
            ) from error
        self.port: int = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Ipv6Server(_Server):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class names it
        """Logs nothing; probes come every few seconds."""


def _application(registry: CollectorRegistry, health: HealthCheck) -> Callable[..., Iterable[bytes]]:
    metrics: Callable[..., Iterable[bytes]] = make_wsgi_app(registry)

    def respond(environment: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environment["PATH_INFO"] != "/healthz":
            return metrics(environment, start_response)
        problem = health()
        start_response("503 Service Unavailable" if problem else "200 OK", [("Content-Type", "text/plain")])
        return [(problem or "ok").encode() + b"\n"]

    return respond

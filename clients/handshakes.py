"""Why a connection was not opened although somebody listens: the two sides do not agree on TLS.

gRPC says UNAVAILABLE for that, as for a gateway that is away, but waiting does not help. Where this side refuses, gRPC's
text says why. Where the gateway refuses, all that gRPC says is that the connection was closed. Then a connection is opened
once more without gRPC, to hear what the gateway says, or to see when it leaves.
"""

import socket
import ssl
import threading
import time

from tokenrelay.client.connections import host_and_port
from tokenrelay.client.tls import Security
from tokenrelay.errors import HandshakeError, TokenrelayError, UnavailableError

PROBE_SECONDS = 2.0  # for one connection
BETWEEN_PROBES = 5.0  # seconds, so that many calls that fail at once do not double the connections
# The client's part of HTTP/2's beginning (RFC 9113, section 3.4) with empty SETTINGS: some servers wait for it.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"

NOT_TRUSTED = (
    "its certificate is of an authority that this client does not trust; name the authority's file (tls=, or --tls-ca)"
)
NO_TLS = "it speaks no TLS; connect without (leave out tls=, or pass --no-tls), or turn TLS on at the gateway"
ONLY_TLS = "it speaks TLS only; connect with tls= (or --tls, and --tls-ca for an authority of your own)"
WANTS_CERTIFICATE = (
    "it asks for a client certificate; give one with its key (tls=Tls(certificate=, key=), or --tls-certificate and --tls-key)"
)
REFUSES_CERTIFICATE = (
    "it does not accept this client's certificate; use one of an authority that the gateway trusts, and one that is not expired"
)
# Parts of what BoringSSL (in gRPC) and OpenSSL (in Python) say, most telling first.
EXPLANATIONS = (
    ("certificate has expired", "its certificate has expired; the gateway needs a new one"),
    ("certificate is not yet valid", "its certificate is not valid yet; compare the clocks of both machines"),
    ("Hostname Verification Check failed", "its certificate is for another name; call it by a name in the certificate"),
    ("unable to get local issuer certificate", NOT_TRUSTED),
    ("self signed certificate", NOT_TRUSTED),
    ("self-signed certificate", NOT_TRUSTED),
    ("WRONG_VERSION_NUMBER", NO_TLS),
    ("missing selected ALPN", "it speaks TLS but no HTTP/2; something stands between that does not pass gRPC on"),
    ("ALERT_CERTIFICATE_REQUIRED", WANTS_CERTIFICATE),
    ("ALERT_CERTIFICATE_EXPIRED", "this client's certificate has expired; it needs a new one"),
    ("ALERT_UNKNOWN_CA", REFUSES_CERTIFICATE),
    ("ALERT_BAD_CERTIFICATE", REFUSES_CERTIFICATE),
    ("ALERT_CERTIFICATE_UNKNOWN", REFUSES_CERTIFICATE),
)
# What gRPC's text has when TLS itself failed, and not merely the connection.
FAILED = ("SSL_ERROR_SSL", "Custom verification check failed", "Cannot check peer", "Failed to create security handshaker")

# What it has when whoever listens has closed the connection, in lower case. The last one is all that it has of an alert that
# comes after this side's handshake, as Envoy sends it.
LEFT = ("closed", "reset by peer", "broken pipe", "unwrap failed")


class ClosedEarlyError(UnavailableError):
    """Whoever listens at the target closed the connection before a call; a prober may find out why."""


def of_transport(message: str, target: str) -> UnavailableError | HandshakeError:
    """Returns the error of a call for which no connection was there.

    Args:
        message: what gRPC says.
        target: the gateway that was called.
    """
    if any(part in message for part in FAILED):
        return _error(target, _explanation(message) or f"the TLS handshake failed ({message})")
    left = "failed to connect" in message and any(part in message.lower() for part in LEFT)
    return (ClosedEarlyError if left else UnavailableError)(f"no gateway answers at {target} ({message})")


def _explanation(message: str) -> str | None:
    return next((explanation for part, explanation in EXPLANATIONS if part in message), None)


def _error(target: str, explanation: str) -> HandshakeError:
    return HandshakeError(f"no secure connection to {target}: {explanation}")


class Prober:
    """Finds out why a gateway closed a connection. May be used from several threads.

    Args:
        security: how the client connects.
    """

    def __init__(self, security: Security) -> None:
        self._security = security
        self._lock = threading.Lock()
        self._found: dict[str, tuple[float, HandshakeError | None]] = {}

    def explain(self, error: TokenrelayError, target: str) -> TokenrelayError:
        """Returns the error that says why, if TLS is the reason; else the error itself. Blocks for a few seconds at most."""
        if not isinstance(error, ClosedEarlyError):
            return error
        # Held while probing: other threads whose calls failed at the same moment wait for what this one finds.
        with self._lock:
            at, found = self._found.get(target, (-BETWEEN_PROBES, None))
            if time.monotonic() - at >= BETWEEN_PROBES:
                found = self._probe(target)
                self._found[target] = time.monotonic(), found
        # A new one each time, since errors carry the ids of their calls.
        return HandshakeError(found.message) if found is not None else error

    def _probe(self, target: str) -> HandshakeError | None:
        address = host_and_port(target)
        context = self._security.context
        if address is None or context is None:
            return None
        # Twice, because a gateway that was just killed closes connections too; the second one is not accepted any more.
        first = self._connect(target, address, context)
        return first and self._connect(target, address, context)

    def _connect(self, target: str, address: tuple[str, int], context: ssl.SSLContext) -> HandshakeError | None:
        try:
            with (
                socket.create_connection(address, timeout=PROBE_SECONDS) as raw,
                context.wrap_socket(raw, server_hostname=self._security.server_name or address[0]) as tls,
            ):
                explanation = self._explanation_after(tls) if self._security.credentials is not None else ONLY_TLS
        except ssl.SSLError as error:
            # An alert is an answer in TLS; anything else is none.
            answered = "ALERT" in (error.reason or "")
            refused = _explanation(error.reason or "") or f"the TLS handshake failed ({error.reason})"
            explanation = (refused if self._security.credentials is not None else ONLY_TLS) if answered else None
        except OSError:
            explanation = None  # nobody listens or answers any more, which is no matter of TLS
        return _error(target, explanation) if explanation is not None else None

    def _explanation_after(self, tls: ssl.SSLSocket) -> str | None:
        """Returns what is wrong after a handshake that succeeded on this side; None if the gateway goes on to HTTP/2.

        In TLS 1.3 a server looks at the client's certificate after that. Some send an alert, which is raised here; gRPC's
        servers leave without a word.
        """
        try:
            tls.sendall(HELLO)
            answered = bool(tls.recv(1))
        except (ssl.SSLEOFError, ConnectionResetError, BrokenPipeError):
            answered = False
        if answered:
            return None
        return REFUSES_CERTIFICATE if self._security.has_certificate else WANTS_CERTIFICATE

"""The client's TLS arguments, and what it makes of connections that are closed before a call."""

import itertools
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.certificates import DAY, Files, authority
from tokenrelay.client import Client, Tls, handshakes
from tokenrelay.client.handshakes import ClosedEarlyError, Prober, of_transport
from tokenrelay.client.tls import secure
from tokenrelay.errors import HandshakeError, UnavailableError

AUTHORITY = authority()
OWN = AUTHORITY.client("somebody", DAY)
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"  # HTTP/2's first frame
CLOSED = "failed to connect to all addresses; last error: UNAVAILABLE: ipv4:127.0.0.1:1: Socket closed"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files.holding(tmp_path, OWN, AUTHORITY)


def tls(files: Files) -> Tls:
    return Tls(ca=files.client_ca, certificate=files.certificate, key=files.key)


def test_the_forms_of_the_argument(files: Files) -> None:
    assert secure(None, None).credentials is None
    assert secure(False, None).credentials is None
    given = grpc.local_channel_credentials()
    assert secure(None, given).credentials is given
    for argument in (True, files.client_ca, str(files.client_ca), Tls(), tls(files)):
        assert secure(argument, None).credentials is not None
        Client("127.0.0.1:1", tls=argument).close()
    assert secure(tls(files), None).has_certificate


def test_wrong_arguments_are_refused_at_once_and_named(files: Files, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for wrong, text in (
        (Tls(certificate=files.certificate), "tls: a certificate needs its key"),
        (missing, f"tls: {missing} cannot be read: No such file or directory"),
        (files.key, f"tls: {files.key} holds no certificate"),
        (Tls(certificate=files.client_ca, key=files.key), f"tls: {files.key} does not belong to the certificate"),
        (Tls(certificate=files.certificate, key=missing), f"tls: {missing} cannot be read"),
    ):
        with pytest.raises(ValueError, match=r"^tls: ") as caught:
            Client("127.0.0.1:1", tls=wrong)
        assert str(caught.value).startswith(text)
    with pytest.raises(ValueError, match="either tls or credentials"):
        Client("127.0.0.1:1", tls=True, credentials=grpc.local_channel_credentials())
    unknown: Any = 7
    with pytest.raises(TypeError, match="tls: must be True, the path of a CA file, or Tls, is int"):
        Client("127.0.0.1:1", tls=unknown)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Connection refused", UnavailableError),
        (CLOSED, ClosedEarlyError),
        ("failed to connect to all addresses; last error: UNKNOWN: recvmsg:Connection reset by peer", ClosedEarlyError),
        ("failed to connect to all addresses; last error: UNAVAILABLE: Unwrap failed (TSI_DATA_CORRUPTED)", ClosedEarlyError),
        ("Socket closed", UnavailableError),  # in the middle of a call
        ("DNS resolution failed for nowhere:1", UnavailableError),
        (
            "Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1:SSL:x:TLSV1_ALERT_OTHER",
            HandshakeError,
        ),
        ("Cannot check peer: missing selected ALPN property.", HandshakeError),
    ],
)
def test_only_tls_is_told_from_a_gateway_that_is_away(message: str, kind: type[Exception]) -> None:
    assert type(of_transport(message, "gateway:1")) is kind


class Listener:
    """Takes connections, and has each handled by a function."""

    def __init__(self, handle: Any) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._handle = handle
        self.taken = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self._server.getsockname()[1]}"

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self.taken += 1
            with connection:
                self._handle(connection)

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()


@contextmanager
def listening(handle: Any) -> Iterator[Listener]:
    listener = Listener(handle)
    try:
        yield listener
    finally:
        listener.close()


def explained(listener: Listener, prober: Prober) -> Exception:
    return prober.explain(of_transport(CLOSED, listener.target), listener.target)


def test_an_alert_of_the_gateway_is_put_into_words(files: Files) -> None:
    strict = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    strict.verify_mode = ssl.CERT_REQUIRED
    strict.load_verify_locations(cadata=authority("stranger").own.certificate.decode())
    strict.load_cert_chain(files.certificate, files.key)

    def handle(connection: socket.socket) -> None:
        with pytest.raises(ssl.SSLError):
            strict.wrap_socket(connection, server_side=True)

    with listening(handle) as listener:
        error = explained(listener, Prober(secure(files.client_ca, None)))
        assert isinstance(error, HandshakeError)
        assert "asks for a client certificate" in error.message
        error = explained(listener, Prober(secure(tls(files), None)))
        assert isinstance(error, HandshakeError)
        assert "does not accept this client's certificate" in error.message
        error = explained(listener, Prober(secure(None, None)))
        assert isinstance(error, HandshakeError)
        assert "it speaks TLS only" in error.message


def test_a_server_that_closes_everything_is_away_and_is_not_asked_by_each_call(files: Files) -> None:
    with listening(lambda _: None) as listener:
        for security in (secure(None, None), secure(tls(files), None)):
            prober, before = Prober(security), listener.taken
            for _ in range(20):
                assert type(explained(listener, prober)) is ClosedEarlyError
            assert listener.taken - before == 1


def test_a_gateway_that_leaves_after_the_handshake_once_is_away(files: Files) -> None:
    lax = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    lax.load_cert_chain(files.certificate, files.key)
    times = itertools.count(1)

    def handle(connection: socket.socket) -> None:
        with lax.wrap_socket(connection, server_side=True) as tls:
            tls.recv(len(handshakes.HELLO))
            if next(times) > 1:
                tls.sendall(SETTINGS)

    with listening(handle) as listener:
        assert type(explained(listener, Prober(secure(True, None)))) is ClosedEarlyError
        assert listener.taken == 2


def test_credentials_of_the_application_are_not_probed() -> None:
    with listening(lambda _: None) as listener:
        prober = Prober(secure(None, grpc.ssl_channel_credentials()))
        assert type(explained(listener, prober)) is ClosedEarlyError
        assert listener.taken == 0

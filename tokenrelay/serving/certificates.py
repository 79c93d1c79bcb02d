"""A server's certificate and key, read from files, and read anew when these are replaced.

Files are compared by content, not by time of change: whoever writes in place, renames, or swaps the folder that a link
leads to (as Kubernetes does with its secrets) is noticed in the same way, and two writes within one tick of the file
system's clock are too. All are small, so that reading them twice a second costs less than 100 µs of a thread.

What does not fit is looked at twice before it is refused. Certificate and key are two files, so that a replacement is
always half done for a moment, and a file may be seen while it is being written.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from tokenrelay import pem
from tokenrelay.pem import PemError
from tokenrelay.serving import expiry
from tokenrelay.settings import TlsSettings, variable
from tokenrelay.start_up import SettingError

log = structlog.get_logger(__name__)

LOOK_SECONDS = 0.5  # between two looks at the files
FIELDS = ("tls_certificate", "tls_key", "tls_client_ca")  # the settings that name files


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, known to fit. Bytes are PEM, as they stand in the files.

    Attributes:
        certificate: the server's certificate, then those that lead to its authority.
        key: its private key; never to be logged.
        client_ca: the authorities of clients' certificates; None if clients need none.
        not_after: when the server's certificate expires.
    """

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    not_after: datetime

    def __repr__(self) -> str:
        return f"Pair(not_after={self.not_after.isoformat()})"  # a key must not get into a log by accident


class Certificates:
    """The certificate that a server shows now.

    Args:
        settings: names the files; TLS is on.

    Raises:
        SettingError: a file cannot be used; names its variable.
    """

    def __init__(self, settings: TlsSettings) -> None:
        assert settings.tls_certificate is not None
        assert settings.tls_key is not None
        self._certificate, self._key, self._client_ca = settings.tls_certificate, settings.tls_key, settings.tls_client_ca
        self._suspected: str | None = None
        self._refused: str | None = None
        try:
            self._current = self._read()
        except PemError as error:
            named = next(name for name in FIELDS if getattr(settings, name) == error.file)
            raise SettingError(variable(TlsSettings, named), str(error)) from None
        self._warn_if_expired()

    @property
    def current(self) -> Pair:
        """The newest pair that fits. May be read from any thread."""
        return self._current

    async def watch(self, on_change: Callable[[Pair], Awaitable[None]] | None = None) -> None:
        """Takes up new files until cancelled.

        Args:
            on_change: is awaited with each new pair, once `current` is that pair. What it raises ends the watch.
        """
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            # In a thread, because the files may lie on a network's file system, which can hang.
            if await asyncio.to_thread(self.look) and on_change is not None:
                await on_change(self._current)

    def look(self) -> bool:
        """Looks at the files once; returns whether `current` has changed."""
        try:
            found = self._read(known=self._current)
        except PemError as error:
            self._refuse(error)
            return False
        self._suspected = self._refused = None
        if found == self._current:
            return False
        self._current = found
        log.info("certificate replaced", file=self._certificate, not_after=found.not_after.isoformat())
        self._warn_if_expired()
        return True

    def _refuse(self, error: PemError) -> None:
        """Says once that files do not fit, and only when the next look finds the same."""
        problem = str(error)
        if problem == self._suspected and problem != self._refused:
            self._refused = problem
            log.warning("certificate refused, the old one stays", file=error.file, reason=error.reason)
        self._suspected = problem

    def _warn_if_expired(self) -> None:
        if self._current.not_after <= datetime.now(UTC):
            log.warning(
                "the certificate has expired, so that clients will refuse it",
                file=self._certificate,
                not_after=self._current.not_after.isoformat(),
            )

    def _read(self, known: Pair | None = None) -> Pair:
        """Returns what the files hold; the known pair itself if they hold nothing else.

        Raises:
            PemError: they do not fit.
        """
        certificate, key, client_ca = self._contents()
        if known is not None and (certificate, key, client_ca) == (known.certificate, known.key, known.client_ca):
            return known
        not_after = self._check(certificate, client_ca)
        # OpenSSL takes a pair from files alone. What was checked is what was read only if they are still the same now.
        if self._contents() != (certificate, key, client_ca):
            raise PemError(self._certificate, "is being replaced again and again")
        return Pair(certificate, key, client_ca, not_after)

    def _contents(self) -> tuple[bytes, bytes, bytes | None]:
        return (
            pem.read(self._certificate),
            pem.read(self._key),
            pem.read(self._client_ca) if self._client_ca is not None else None,
        )

    def _check(self, certificate: bytes, client_ca: bytes | None) -> datetime:
        """Returns when the certificate expires, if it is one, has its key, and the authorities are some."""
        pem.check_certificates(self._certificate, certificate)
        if self._client_ca is not None and client_ca is not None:
            pem.check_certificates(self._client_ca, client_ca)
        pem.load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self._certificate, self._key)
        try:
            return expiry.not_after(certificate)
        except ValueError as error:
            raise PemError(self._certificate, str(error)) from None

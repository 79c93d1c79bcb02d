"""How Envoy gets the certificate that is current: from files that this process writes, of pairs that it has checked.

Envoy could read the user's own files, but would then take a certificate while its key is still the old one, or a file that
is half written. So it reads secrets of ours, in which certificate and key stand together. Each is written under another
name and renamed, which Envoy's watch of the file notices, and removed as soon as Envoy has it, so that a gateway that is
killed leaves no key behind. Open connections keep what they were shown.
"""

import asyncio
import json
import os
from base64 import b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog

from gateway.edge.envoy_admin import AdminError
from tokenrelay.serving.certificates import Pair

log = structlog.get_logger(__name__)

TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"
CERTIFICATE, CLIENT_CA = "certificate", "client-ca"  # the secrets' names, and those of their files
# What Envoy says of itself when it asks for secrets; it asks nobody but the files, but wants to have a name.
NODE = {"id": "gateway", "cluster": "tokenrelay"}
KINDS = "a key of RSA with 2048 bits or more, of ECDSA on P-256, P-384 or P-521, or of Ed25519"
LOOK_SECONDS = 0.1  # between looks whether Envoy has taken a secret
RETRY_SECONDS = 1.0

Statistics = Callable[[str], Awaitable[dict[str, Any]]]


class SecretRefusedError(Exception):
    """Envoy does not take a pair, as where its key is of a kind that Envoy does not know. Envoy logs why."""


class Secrets:
    """The files from which Envoy takes the pair.

    Args:
        folder: nobody but this user may look into it.
        statistics: Envoy's; see gateway.edge.envoy_admin.
    """

    def __init__(self, folder: Path, statistics: Statistics) -> None:
        self._folder = folder
        self._statistics = statistics
        self._version = 0
        self._refusals = 0
        self._written: list[str] = []  # the secrets whose files Envoy has still to read

    def transport_socket(self, pair: Pair) -> dict[str, Any]:
        """Returns the part of Envoy's configuration that ends TLS.

        Args:
            pair: whether it has authorities of clients decides for good whether clients need a certificate.
        """
        common: dict[str, Any] = {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "tls_certificate_sds_secret_configs": [self._source(CERTIFICATE)],
        }
        if pair.client_ca is not None:
            common["validation_context_sds_secret_config"] = self._source(CLIENT_CA)
        return {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": f"{TLS}.DownstreamTlsContext",
                "common_tls_context": common,
                "require_client_certificate": pair.client_ca is not None,
            },
        }

    def write(self, pair: Pair) -> None:
        """Writes a pair, for Envoy to show new connections.

        Raises:
            OSError: there is no room for it.
        """
        self._version += 1
        chain = {"certificate_chain": _inline(pair.certificate), "private_key": _inline(pair.key)}
        self._put(CERTIFICATE, {"tls_certificate": chain})
        if pair.client_ca is not None:
            self._put(CLIENT_CA, {"validation_context": {"trusted_ca": _inline(pair.client_ca)}})

    async def taken(self) -> None:
        """Returns once Envoy has what was written last, and removes the files.

        Raises:
            AdminError: Envoy does not answer.
            SecretRefusedError: Envoy goes on with the pair before, or with none if this was the first.
        """
        while not await self._is_taken():  # noqa: ASYNC110  # Envoy tells of it in its statistics alone
            await asyncio.sleep(LOOK_SECONDS)
        self._remove()

    async def replace(self, pair: Pair) -> None:
        """Has new connections be shown a pair. What goes wrong is logged, because a gateway that serves must not end by it."""
        is_written = False
        while True:
            try:
                if not is_written:
                    self.write(pair)
                is_written = True
                return await self.taken()
            except SecretRefusedError as error:
                log.warning("certificate refused, the old one stays", reason=str(error))
                return None
            except (OSError, AdminError) as error:
                log.warning("certificate not replaced yet, trying again", reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)

    async def _is_taken(self) -> bool:
        found = await self._statistics(r"^sds\.")
        refusals = sum(found.get(f"sds.{name}.update_rejected", 0) for name in (CERTIFICATE, CLIENT_CA))
        if refusals > self._refusals:
            self._refusals = refusals
            self._remove()
            raise SecretRefusedError("envoy cannot use it; see its own line above")
        return all(found.get(f"sds.{name}.version_text") == str(self._version) for name in self._written)

    def _remove(self) -> None:
        for name in self._written:
            self._file(name).unlink(missing_ok=True)
        self._written.clear()

    def _source(self, name: str) -> dict[str, Any]:
        return {"name": name, "sds_config": {"path_config_source": {"path": str(self._file(name))}}}

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.json"

    def _put(self, name: str, secret: dict[str, Any]) -> None:
        resource = {"@type": f"{TLS}.Secret", "name": name, **secret}
        fresh = self._folder / f"{name}.new"
        # Readable for this user alone from its first byte on, whatever the umask is.
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
            json.dump({"version_info": str(self._version), "resources": [resource]}, file)
        fresh.replace(self._file(name))
        if name not in self._written:
            self._written.append(name)


def _inline(content: bytes) -> dict[str, str]:
    return {"inline_bytes": b64encode(content).decode()}

"""The stack's own authority and certificate: made by the first `make up TLS=true`, and anew when they will expire soon."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from deploy.local.authority import Authority, Issued
from deploy.local.settings import TlsFiles

AUTHORITY_LIFETIME = timedelta(days=3650)
LIFETIME = timedelta(days=90)
RENEWED_BEFORE = timedelta(days=30)


def provide(files: TlsFiles) -> list[str]:
    """Makes what is missing or will expire soon; returns a line for the user about each thing that was made."""
    files.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = []
    own = _read(files.authority, files.authority_key, LIFETIME)
    authority = Authority(own) if own is not None else Authority.new("Tokenrelay's local authority", AUTHORITY_LIFETIME)
    if own is None:
        _write(files.authority, files.authority_key, authority.own)
        made.append(f"Made a certificate authority for this stack: {files.authority}")
    if own is None or _read(files.certificate, files.key, RENEWED_BEFORE) is None:
        issued = authority.server(LIFETIME)
        _write(files.certificate, files.key, issued)
        made.append(f"Made a certificate for localhost, valid until {issued.not_after:%Y-%m-%d}: {files.certificate}")
    return made


def _read(certificate: Path, key: Path, at_least: timedelta) -> Issued | None:
    """Returns a certificate that is there with its key and is valid for long enough."""
    if not certificate.is_file() or not key.is_file():
        return None
    found = Issued(certificate.read_bytes(), key.read_bytes())
    return found if found.not_after - datetime.now(UTC) > at_least else None


def _write(certificate: Path, key: Path, issued: Issued) -> None:
    # The key first: a certificate without its key would be made again, but one with an older key would be shown.
    for file, content, mode in ((key, issued.key, 0o600), (certificate, issued.certificate, 0o644)):
        fresh = file.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as opened:
            opened.write(content)
        fresh.replace(file)

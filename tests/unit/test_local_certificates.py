"""What `make up TLS=true` makes, reuses and renews."""

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deploy.local import certificates, plan
from deploy.local.authority import Authority, Issued
from deploy.local.machine import Machine
from deploy.local.settings import StackSettings, TlsFiles
from tokenrelay.serving.certificates import Certificates
from tokenrelay.settings import TlsSettings


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    return TlsFiles(tmp_path / "state" / "tls")


def contents(files: TlsFiles) -> tuple[bytes, ...]:
    return tuple(file.read_bytes() for file in (files.authority, files.authority_key, files.certificate, files.key))


def test_what_is_made_fits_and_is_made_once(files: TlsFiles) -> None:
    assert len(certificates.provide(files)) == 2
    made = contents(files)
    found = Certificates(TlsSettings(tls_certificate=str(files.certificate), tls_key=str(files.key)))
    assert found.current.not_after > datetime.now(UTC) + certificates.RENEWED_BEFORE
    ssl.create_default_context(cafile=files.authority)
    for file in (files.authority_key, files.key):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(files.folder.stat().st_mode) == 0o700
    assert certificates.provide(files) == []
    assert contents(files) == made


def test_a_certificate_that_expires_soon_is_renewed_by_the_same_authority(files: TlsFiles) -> None:
    certificates.provide(files)
    authority, authority_key, *_ = contents(files)
    soon = Authority(Issued(authority, authority_key)).server(certificates.RENEWED_BEFORE - timedelta(days=1))
    files.certificate.write_bytes(soon.certificate)
    files.key.write_bytes(soon.key)
    (line,) = certificates.provide(files)
    assert str(files.certificate) in line
    assert contents(files)[:2] == (authority, authority_key)
    assert files.certificate.read_bytes() != soon.certificate
    assert stat.S_IMODE(files.key.stat().st_mode) == 0o600


def test_with_another_authority_the_certificate_is_made_anew_too(files: TlsFiles) -> None:
    certificates.provide(files)
    before = contents(files)
    files.authority_key.unlink()
    assert len(certificates.provide(files)) == 2
    assert all(new != old for new, old in zip(contents(files), before, strict=True))


def test_only_a_stack_with_tls_gives_its_gateways_the_files(tmp_path: Path) -> None:
    machine = Machine(redis="/usr/bin/redis-server", cores=(0,))
    for tls in (False, True):
        settings = StackSettings(state=tmp_path, tls=tls, gateways=2)
        for process in plan.processes(settings, machine):
            assert (plan.CERTIFICATE_VARIABLE in process.environment) == (tls and process.name.startswith("gateway"))
        assert (plan.client_tls(settings) is not None) == tls

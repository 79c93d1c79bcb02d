"""Certificates are taken from their files, and taken anew when these are replaced."""

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from structlog.testing import capture_logs

from deploy.local.authority import Issued
from tests.support.certificates import DAY, Files, Volume, authority
from tokenrelay.serving import certificates
from tokenrelay.serving.certificates import Certificates, Pair
from tokenrelay.settings import TlsSettings
from tokenrelay.start_up import SettingError

AUTHORITY = authority()
FIRST, SECOND = AUTHORITY.server(DAY), AUTHORITY.server(2 * DAY)
REPLACED = "certificate replaced"
REFUSED = "certificate refused, the old one stays"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files.holding(tmp_path, FIRST, AUTHORITY)


def opened(files: Files) -> Certificates:
    return Certificates(TlsSettings(**files.settings))


def shows(found: Certificates, issued: Issued) -> bool:
    return (found.current.certificate, found.current.key) == (issued.certificate, issued.key)


def encrypted(key: bytes) -> bytes:
    loaded = load_pem_private_key(key, password=None)
    return loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"s3cret"))


def test_a_pair_is_read_with_its_expiry_and_shows_no_key(files: Files) -> None:
    found = opened(files)
    assert shows(found, FIRST)
    assert found.current.client_ca is None
    assert found.current.not_after == FIRST.not_after
    assert not found.look()
    assert "PRIVATE" not in repr(found.current)


def test_clients_authorities_are_read_and_replaced(files: Files) -> None:
    found = Certificates(TlsSettings(**files.settings_with_client_ca))
    assert found.current.client_ca == AUTHORITY.own.certificate
    both = "# Főtanúsítvány\n".encode() + AUTHORITY.own.certificate + authority("other").own.certificate
    files.client_ca.write_bytes(both)
    assert found.look()
    assert found.current.client_ca == both


@pytest.mark.parametrize("replace", [Files.write, Files.rename_over])
def test_a_replaced_pair_is_taken(files: Files, replace: Callable[[Files, Issued], None]) -> None:
    found = opened(files)
    replace(files, SECOND)
    with capture_logs() as lines:
        assert found.look()
        assert not found.look()
    assert shows(found, SECOND)
    assert [line["event"] for line in lines] == [REPLACED]


def test_a_volume_of_links_that_is_swapped_is_taken(tmp_path: Path) -> None:
    volume = Volume(tmp_path / "secret", FIRST)
    found = opened(volume.files)
    volume.replace(SECOND)
    assert found.look()
    assert shows(found, SECOND)


def test_a_file_of_the_same_size_and_time_is_taken(files: Files) -> None:
    other = AUTHORITY.server(DAY)
    while (len(other.certificate), len(other.key)) != (len(FIRST.certificate), len(FIRST.key)):
        other = AUTHORITY.server(DAY)
    found = opened(files)
    times = files.certificate.stat().st_mtime_ns, files.key.stat().st_mtime_ns
    files.write(other)
    for file, time in zip((files.certificate, files.key), times, strict=True):
        os.utime(file, ns=(time, time))
    assert found.look()
    assert shows(found, other)


def test_while_only_one_of_both_is_new_nothing_is_said_until_it_stays_so(files: Files) -> None:
    found = opened(files)
    files.certificate.write_bytes(SECOND.certificate)
    with capture_logs() as lines:
        assert not found.look()
        assert lines == []
        for _ in range(3):
            assert not found.look()
    assert [line["event"] for line in lines] == [REFUSED]
    assert lines[0]["file"] == str(files.key)
    assert lines[0]["reason"] == "does not belong to the certificate"
    assert shows(found, FIRST)
    files.key.write_bytes(SECOND.key)
    assert found.look()
    assert shows(found, SECOND)


@pytest.mark.parametrize("name", ["certificate", "key"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_file_that_is_half_written_is_taken_when_it_is_whole(files: Files, name: str, share: float) -> None:
    found = opened(files)
    files.write(SECOND)
    file, whole = getattr(files, name), getattr(SECOND, name)
    file.write_bytes(whole[: int(len(whole) * share)])
    with capture_logs() as lines:
        assert not any(found.look() for _ in range(3))
        file.write_bytes(whole)
        assert found.look()
    assert [(line["event"], line["file"]) for line in lines] == [(REFUSED, str(file)), (REPLACED, str(files.certificate))]
    assert shows(found, SECOND)


def test_a_chain_that_is_broken_off_is_refused(files: Files) -> None:
    found = opened(files)
    files.certificate.write_bytes(SECOND.certificate + AUTHORITY.own.certificate[:-60])
    files.key.write_bytes(SECOND.key)
    assert not found.look()
    files.certificate.write_bytes(SECOND.certificate + AUTHORITY.own.certificate)
    assert found.look()


UNFIT: list[tuple[str, bytes | None, str, str]] = [
    ("certificate", None, "TOKENRELAY_TLS_CERTIFICATE", "cannot be read: No such file or directory"),
    ("certificate", b"", "TOKENRELAY_TLS_CERTIFICATE", "holds no certificate"),
    ("certificate", b"\xff\xfe\x00", "TOKENRELAY_TLS_CERTIFICATE", "holds no certificate"),
    ("certificate", b"x" * 2_000_000, "TOKENRELAY_TLS_CERTIFICATE", "has more than 1048576 bytes"),
    ("certificate", FIRST.key, "TOKENRELAY_TLS_CERTIFICATE", "holds no certificate"),
    ("key", None, "TOKENRELAY_TLS_KEY", "cannot be read: No such file or directory"),
    ("key", SECOND.key, "TOKENRELAY_TLS_KEY", "does not belong to the certificate"),
    ("key", encrypted(FIRST.key), "TOKENRELAY_TLS_KEY", "is encrypted"),
    ("key", FIRST.certificate, "TOKENRELAY_TLS_KEY", "holds no private key that can be read"),
    ("client_ca", None, "TOKENRELAY_TLS_CLIENT_CA", "cannot be read: No such file or directory"),
    ("client_ca", b"no certificate", "TOKENRELAY_TLS_CLIENT_CA", "holds no certificate"),
]


@pytest.mark.parametrize(("name", "content", "variable", "reason"), UNFIT, ids=lambda value: str(value)[:20])
def test_what_does_not_fit_ends_a_start_and_leaves_the_old_pair_in_a_running_server(
    files: Files, name: str, content: bytes | None, variable: str, reason: str
) -> None:
    settings = TlsSettings(**files.settings_with_client_ca)
    running = Certificates(settings)
    file = getattr(files, name)
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingError) as caught:
        Certificates(settings)
    assert str(caught.value).startswith(f"{variable}: {file} {reason}")
    with capture_logs() as lines:
        assert not any(running.look() for _ in range(4))
    assert [line["event"] for line in lines] == [REFUSED]
    assert lines[0]["file"] == str(file)
    assert lines[0]["reason"].startswith(reason)
    assert "PRIVATE" not in str(lines)
    assert shows(running, FIRST)


def test_a_folder_and_a_pipe_are_refused_without_waiting(files: Files) -> None:
    files.key.unlink()
    os.mkfifo(files.key)
    with pytest.raises(SettingError, match="is no regular file"):
        opened(files)
    files.key.unlink()
    files.key.mkdir()
    with pytest.raises(SettingError, match=r"TOKENRELAY_TLS_KEY: .*(is no regular file|cannot be read: Is a directory)"):
        opened(files)


def test_each_refused_replacement_gets_a_line_of_its_own(files: Files) -> None:
    found = opened(files)
    with capture_logs() as lines:
        for content in (SECOND.key, encrypted(FIRST.key), SECOND.key):
            files.key.write_bytes(content)
            assert not any(found.look() for _ in range(3))
    assert [line["reason"].split(" ")[0] for line in lines] == ["does", "is", "does"]


def test_an_expired_certificate_is_used_with_a_warning(files: Files) -> None:
    expired = AUTHORITY.server(timedelta(minutes=-1))
    files.write(expired)
    with capture_logs() as lines:
        found = opened(files)
    (line,) = lines
    assert (line["log_level"], line["file"]) == ("warning", str(files.certificate))
    assert "expired" in line["event"]
    assert shows(found, expired)


@pytest.mark.parametrize("year", [2031, 2049, 2050, 2120])
def test_expiry_is_read_in_both_forms_of_time(files: Files, year: int) -> None:
    until = datetime(year, 2, 28, 23, 59, 59, tzinfo=UTC)
    issued = AUTHORITY.server(until - datetime.now(UTC))
    files.write(issued)
    assert opened(files).current.not_after == issued.not_after


async def test_the_watch_hands_a_new_pair_on(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "LOOK_SECONDS", 0.01)
    found = opened(files)
    handed_on: asyncio.Queue[Pair] = asyncio.Queue()
    watching = asyncio.create_task(found.watch(handed_on.put))
    try:
        for issued in (SECOND, FIRST):
            files.write(issued)
            pair = await handed_on.get()
            assert pair is found.current
            assert pair.certificate == issued.certificate
    finally:
        watching.cancel()

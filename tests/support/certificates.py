"""Certificates in files, and the ways in which they are replaced."""

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from deploy.local.authority import Authority, Issued

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Files:
    """A server's certificate and key, and the authorities of its clients, as a gateway's settings name them."""

    certificate: Path
    key: Path
    client_ca: Path

    @classmethod
    def within(cls, folder: Path) -> "Files":
        return cls(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")

    @classmethod
    def holding(cls, folder: Path, issued: Issued, clients: Authority) -> "Files":
        """Writes a certificate, its key, and the authority of its clients."""
        files = cls.within(folder)
        files.write(issued)
        files.client_ca.write_bytes(clients.own.certificate)
        return files

    @property
    def settings(self) -> dict[str, Any]:
        return {"tls_certificate": str(self.certificate), "tls_key": str(self.key)}

    @property
    def settings_with_client_ca(self) -> dict[str, Any]:
        return {**self.settings, "tls_client_ca": str(self.client_ca)}

    def write(self, issued: Issued) -> None:
        """Replaces both in place."""
        self.certificate.write_bytes(issued.certificate)
        self.key.write_bytes(issued.key)

    def rename_over(self, issued: Issued) -> None:
        """Replaces both by files that are whole before they get their names."""
        for file, content in ((self.certificate, issued.certificate), (self.key, issued.key)):
            fresh = file.with_suffix(".new")
            fresh.write_bytes(content)
            fresh.replace(file)


class Volume:
    """A folder of links as Kubernetes makes it of a secret: all are replaced at once, by renaming one link."""

    def __init__(self, folder: Path, issued: Issued) -> None:
        self._folder = folder
        self._versions = 0
        folder.mkdir()
        self.replace(issued)
        self.files = Files.within(folder)
        for file in (self.files.certificate, self.files.key):
            file.symlink_to(Path("..data", file.name))

    def replace(self, issued: Issued) -> None:
        self._versions += 1
        version = self._folder / f"..version_{self._versions}"
        version.mkdir()
        Files.within(version).write(issued)
        link = self._folder / "..data_tmp"
        link.symlink_to(version.name)
        os.replace(link, self._folder / "..data")


def authority(name: str = "test authority") -> Authority:
    return Authority.new(name, lifetime=DAY)

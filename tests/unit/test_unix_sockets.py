"""Drills tell connections with Redis from what a process holds for itself, also those over a Unix socket."""

import os
import socket
from pathlib import Path

from drills.unix_sockets import connected_with


def test_both_ends_of_each_connection_are_found(tmp_path: Path) -> None:
    name, other = str(tmp_path / "asked"), str(tmp_path / "other")
    with (
        socket.socket(socket.AF_UNIX) as server,
        socket.socket(socket.AF_UNIX) as another,
        socket.socket(socket.AF_UNIX) as client,
        socket.socket(socket.AF_UNIX) as elsewhere,
    ):
        for listening, path in ((server, name), (another, other)):
            listening.bind(path)
            listening.listen()
        client.connect(name)
        elsewhere.connect(other)
        accepted, _ = server.accept()
        with accepted:
            assert connected_with(name) == {os.fstat(end.fileno()).st_ino for end in (client, accepted)}
    assert connected_with(name) == set()

"""Which Unix sockets are connected with one that has a name; asked of Linux, as /proc does not tell with whom a client is."""

import socket
import struct
from collections.abc import Iterator

SOCK_DIAG = 4  # <linux/netlink.h>
BY_FAMILY, DONE = 20, 3  # kinds of messages, <linux/sock_diag.h> and <linux/netlink.h>
REQUEST_DUMP = 0x1 | 0x300
SHOW_NAME, SHOW_PEER = 0x1, 0x4
NAME, PEER = 0, 2  # attributes, <linux/unix_diag.h>
ALL_STATES = 0xFFFFFFFF
ASK = struct.Struct("=IHHIIBBHIIIII")
HEAD, FOUND, ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBBBIII"), struct.Struct("=HH")
BUFFER = 1 << 20


def connected_with(name: str) -> set[int]:
    """Returns the inodes of both ends of every connection with a socket of some name."""
    found: set[int] = set()
    for inode, called, peer in _all():
        if called == name and peer:
            found |= {inode, peer}
    return found


def _all() -> Iterator[tuple[int, str, int]]:
    """Yields inode, name and the other end's inode of every Unix socket."""
    body = (socket.AF_UNIX, 0, 0, ALL_STATES, 0, SHOW_NAME | SHOW_PEER, ALL_STATES, ALL_STATES)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, SOCK_DIAG) as kernel:
        kernel.send(ASK.pack(ASK.size, BY_FAMILY, REQUEST_DUMP, 0, 0, *body))
        while True:
            answer = kernel.recv(BUFFER)
            while answer:
                length, kind, *_ = HEAD.unpack_from(answer)
                if kind != BY_FAMILY:
                    assert kind == DONE, f"Linux answers with {answer!r}"
                    return
                yield _one(answer[HEAD.size : length])
                answer = answer[_aligned(length) :]


def _one(message: bytes) -> tuple[int, str, int]:
    *_, inode, _, _ = FOUND.unpack_from(message)
    name, peer, place = "", 0, FOUND.size
    while place < len(message):
        length, kind = ATTRIBUTE.unpack_from(message, place)
        value = message[place + ATTRIBUTE.size : place + length]
        if kind == NAME:
            name = value.rstrip(b"\0").decode(errors="replace")
        elif kind == PEER:
            (peer,) = struct.unpack("=I", value)
        place += _aligned(length)
    return inode, name, peer


def _aligned(length: int) -> int:
    return length + 3 & ~3

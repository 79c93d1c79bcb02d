"""HTTP/2 frames made by hand, right and wrong ones, and what comes back on a stream."""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
INITIAL_WINDOW_SIZE = 4  # a setting's number
WINDOW = 65_535  # what a connection and a stream may have under way before anything is granted
MOST = 2**31 - 1
FRAME_BYTES = 16_384
CANCEL = 8  # an error code

Fields = Iterable[tuple[bytes, bytes]]


class Frame(IntEnum):
    """The kinds of frames."""

    DATA = 0
    HEADERS = 1
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


@dataclass
class Answer:
    """What came back on a stream.

    Attributes:
        fields: headers and trailers.
        reset: the error code with which the server broke it off.
        cut: whether the connection ended before the stream did.
    """

    fields: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)
    reset: int | None = None
    cut: bool = False

    @property
    def status(self) -> int | None:
        """The gRPC status; None if there was none."""
        found = self.fields.get("grpc-status")
        return None if found is None else int(found)

    @property
    def text(self) -> str:
        return self.fields.get("grpc-message", "")

    def messages(self) -> list[bytes]:
        """Returns the whole messages of the body."""
        found, place = [], 0
        while place + 5 <= len(self.body):
            (size,) = struct.unpack_from(">I", self.body, place + 1)
            found.append(bytes(self.body[place + 5 : place + 5 + size]))
            place += 5 + size
        return found


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Returns a frame's bytes."""
    return len(payload).to_bytes(3, "big") + bytes((kind & 0xFF, flags)) + stream.to_bytes(4, "big") + payload


def header_frames(stream: int, block: bytes) -> bytes:
    """Returns a header block as one frame, and as many more as it needs."""
    parts = [block[start : start + FRAME_BYTES] for start in range(0, len(block), FRAME_BYTES)] or [b""]
    kinds = [Frame.HEADERS, *[Frame.CONTINUATION] * (len(parts) - 1)]
    ends = [*[0] * (len(parts) - 1), END_HEADERS]
    return b"".join(frame(kind, end, stream, part) for kind, end, part in zip(kinds, ends, parts, strict=True))


def header_block(fields: Fields) -> bytes:
    """Returns header fields as literals that leave no trace in the other side's table."""
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields)


def message(payload: bytes, *, flag: int = 0, length: int | None = None) -> bytes:
    """Returns gRPC's prefix and a message; the prefix may lie."""
    return bytes((flag,)) + (len(payload) if length is None else length).to_bytes(4, "big") + payload


def request_fields(path: bytes, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Returns the header fields of a good gRPC request."""
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"drill"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *more,
    ]


def _text(value: bytes) -> bytes:
    if len(value) < 127:
        return bytes((len(value),)) + value
    out, rest = bytearray((127,)), len(value) - 127
    while rest > 127:
        out.append(rest & 127 | 128)
        rest >>= 7
    out.append(rest)
    return bytes(out) + value

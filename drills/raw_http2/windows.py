"""What a server lets a client send: HTTP/2's windows, of the connection and of each stream."""

import struct
from collections import Counter

from drills.raw_http2.frames import INITIAL_WINDOW_SIZE, WINDOW


class Windows:
    """The server's grants, less what has been sent."""

    def __init__(self) -> None:
        self._all = WINDOW
        self._of_each = WINDOW  # at first
        self._more: Counter[int] = Counter()  # granted to single streams since, less what they have sent

    def room(self, stream: int) -> int:
        """Returns how many bytes may be sent on a stream now."""
        return max(0, min(self._all, self._of_each + self._more[stream]))

    def sent(self, stream: int, count: int) -> None:
        self._all -= count
        self._more[stream] -= count

    def forget(self, stream: int) -> None:
        del self._more[stream]

    def take_update(self, stream: int, payload: bytes) -> None:
        """Takes a WINDOW_UPDATE; stream 0 is the connection."""
        if stream == 0:
            self._all += int.from_bytes(payload, "big")
        else:
            self._more[stream] += int.from_bytes(payload, "big")

    def take_settings(self, payload: bytes) -> None:
        for number, value in struct.iter_unpack(">HI", payload):
            if number == INITIAL_WINDOW_SIZE:
                self._of_each = value

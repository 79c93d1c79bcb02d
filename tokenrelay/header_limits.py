"""The bound on a request's headers, whatever protocol it comes by: how many there are, and how many bytes they have."""

from collections.abc import Sequence

from tokenrelay.errors import HeadersTooLargeError
from tokenrelay.settings import ServerSettings


class HeaderLimits:
    """Refuses a request with too many headers, or too large ones.

    The server in front has limits of its own, which stand above these: it answers with a text that names no limit, or just
    breaks the request off.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._most = settings.max_headers
        self._most_bytes = settings.max_header_bytes

    def check(self, headers: Sequence[tuple[str | bytes, str | bytes]]) -> None:
        """Checks a request's headers, which are names and values.

        Raises:
            HeadersTooLargeError: they have too many bytes together, or are too many.
        """
        if len(headers) > self._most:
            raise HeadersTooLargeError(f"the request has {len(headers)} headers; at most {self._most} are allowed")
        size = sum(len(name) + len(value) for name, value in headers)
        if size > self._most_bytes:
            raise HeadersTooLargeError(f"the request's headers have {size} bytes; at most {self._most_bytes} are allowed")

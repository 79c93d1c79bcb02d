"""The step that bounds a request's headers: how many there are, and how many bytes they have together."""

from typing import Any

from tokenrelay.errors import MessageTooLargeError
from tokenrelay.serving.exchange import Exchange, Proceed
from tokenrelay.settings import ServerSettings


class HeaderLimits:
    """Refuses a call with too many headers, or too large ones.

    The server in front has limits of its own, which stand above these: it answers with a text that does not name the
    setting, or just breaks the call off.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._most = settings.max_headers
        self._most_bytes = settings.max_header_bytes

    async def __call__(self, exchange: Exchange, proceed: Proceed) -> Any:
        # Without what gRPC itself uses, such as the content type.
        metadata = exchange.context.invocation_metadata() or ()
        if len(metadata) > self._most:
            raise MessageTooLargeError(f"the request has {len(metadata)} headers; at most {self._most} are allowed")
        size = sum(len(name) + len(value) for name, value in metadata)
        if size > self._most_bytes:
            raise MessageTooLargeError(f"the request's headers have {size} bytes; at most {self._most_bytes} are allowed")
        return await proceed(exchange)

"""What the gateway's parent process and the application inside Envoy tell each other: JSON lines over a socket pair."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

DRAIN = "drain"  # the parent's only word
READY, ENDED = "ready", "ended"  # the application's; with the second one goes the exit status


class Control:
    """One end of the pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, end: socket.socket) -> "Control":
        """Takes over one end, which is closed with it."""
        reader, writer = await asyncio.open_unix_connection(sock=end)
        return cls(reader, writer)

    def say(self, word: str, **more: Any) -> None:
        """Sends a word; is silent if the other end is gone."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps({"word": word, **more}).encode() + b"\n")

    async def hear(self) -> AsyncIterator[dict[str, Any]]:
        """Yields what the other end says, until it is gone."""
        while line := await self._reader.readline():
            yield json.loads(line)

    async def close(self) -> None:
        self._writer.close()

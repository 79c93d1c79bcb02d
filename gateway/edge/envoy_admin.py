"""What this process tells and asks Envoy: its admin interface, on a Unix socket that only this user can open."""

import asyncio
import json
import socket
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

SECONDS = 5.0  # for one answer


class AdminError(Exception):
    """Envoy does not answer, or does not do what it is told."""


class Admin:
    """Envoy's admin interface.

    Args:
        path: its socket; Envoy makes it when it starts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    async def do(self, what: str, **how: str) -> None:
        """Has Envoy do something.

        Raises:
            AdminError: it does not.
        """
        await self._ask("POST", what, how)

    async def statistics(self, pattern: str) -> dict[str, Any]:
        """Returns the values of Envoy's counters and texts whose names match a regular expression.

        Raises:
            AdminError: Envoy does not answer.
        """
        found = json.loads(await self._ask("GET", "stats", {"filter": pattern, "format": "json"}))["stats"]
        return {one["name"]: one["value"] for one in found if "name" in one}

    async def _ask(self, method: str, what: str, how: dict[str, str]) -> bytes:
        # In a thread, because http.client waits for the answer.
        return await asyncio.to_thread(self._ask_and_wait, method, f"/{what}?{urlencode(how)}")

    def _ask_and_wait(self, method: str, path: str) -> bytes:
        connection = _UnixConnection(self.path)
        try:
            connection.request(method, path)
            with connection.getresponse() as answer:
                text = answer.read()
                if answer.status != 200:
                    raise AdminError(f"{answer.status} {text.decode(errors='replace').strip()}")
                return text
        except (OSError, HTTPException) as error:
            raise AdminError(str(error)) from None
        finally:
            connection.close()


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("envoy", timeout=SECONDS)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self.path))

"""A TCP proxy on a port of its own, through which one machine has a bad network; it needs no privileges."""

import asyncio
import random

from drills.faults.proxy_connection import Connection, Side
from drills.faults.proxy_link import Link, Silence


class TcpProxy:
    """Passes TCP connections on to a target, and does to them what it is told: to live ones and to new ones alike.

    Each direction is a `Link`: `to_target` and `to_client`. All methods are called in the event loop that started it.

    Args:
        target_port: where connections go; nobody needs to listen there yet, or all the time.
        host: where the proxy listens, such as the host's side of a `Network`.
        port: 0 takes a free one, and keeps it.
        seed: of the jitter.
    """

    def __init__(
        self, target_port: int, *, target_host: str = "127.0.0.1", host: str = "127.0.0.1", port: int = 0, seed: int = 0
    ) -> None:
        dice = random.Random(seed)
        self.host = host
        self.port = port
        self.to_target = Link(self._look_at_all, dice)
        self.to_client = Link(self._look_at_all, dice)
        self._target = (target_host, target_port)
        self._connections: set[Connection] = set()
        self._server: asyncio.AbstractServer | None = None

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    async def start(self) -> "TcpProxy":
        """Listens."""
        await self._listen()
        return self

    def refuse_new(self) -> None:
        """Closes the listener: who connects is refused, open connections stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def retarget(self, port: int) -> None:
        """Has new connections go elsewhere. Open ones stay where they are, as with a name or a virtual address that moves."""
        host, _ = self._target
        self._target = (host, port)

    def reset_all(self) -> None:
        """Resets every open connection, on both sides."""
        for connection in list(self._connections):
            connection.reset()

    def be_silent(self, silence: Silence) -> None:
        """Lets nothing arrive in either direction: the network is gone, and nobody is told."""
        self.to_target.be_silent(silence)
        self.to_client.be_silent(silence)

    async def heal(self) -> None:
        """Makes it transparent again. What was held arrives; connections of which something was swallowed are reset."""
        self.to_target.heal()
        self.to_client.heal()
        await self._listen()

    async def close(self) -> None:
        """Closes the listener, and resets all connections."""
        self.refuse_new()
        self.reset_all()
        # Transports close their sockets in the loop's next round.
        await asyncio.sleep(0)

    async def _listen(self) -> None:
        if self._server is not None:
            return
        server = await asyncio.get_running_loop().create_server(self._accept, self.host, self.port)
        self.port = server.sockets[0].getsockname()[1]
        self._server = server

    def _accept(self) -> Side:
        connection = Connection(self.to_target, self.to_client, self._target, self._connections.discard)
        self._connections.add(connection)
        return connection.client

    def _look_at_all(self) -> None:
        for connection in list(self._connections):
            connection.look()

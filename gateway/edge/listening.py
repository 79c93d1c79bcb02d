"""The address that Envoy is to listen on, held for it until it does."""

import socket
from contextlib import ExitStack, closing
from dataclasses import dataclass

from tokenrelay import addresses
from tokenrelay.start_up import SettingError


@dataclass(frozen=True)
class Held:
    """An address that nobody else listens on, bound but silent.

    Attributes:
        address: the IP address.
        port: the port, never 0.
    """

    address: str
    port: int
    sockets: ExitStack

    def close(self) -> None:
        """Lets go of it."""
        self.sockets.close()


def hold(host: str, port: int) -> Held:
    """Returns an address for Envoy.

    Envoy listens with SO_REUSEPORT, so that it can listen beside the socket that holds the address; but two gateways could
    then listen on one port without a word. So it is looked first whether somebody listens there, and gateways that do not
    listen yet see each other by a name in Linux' abstract namespace, which ends with its process.

    Args:
        host: a name, an IPv4 address, or an IPv6 address with or without brackets.
        port: the port; 0 takes a free one.

    Raises:
        SettingError: the address cannot be had.
    """
    with ExitStack() as opened:
        try:
            family, _, _, _, place = socket.getaddrinfo(addresses.bare(host), port, type=socket.SOCK_STREAM)[0]
            with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
                if port:
                    probe.listen(1)  # two that are only bound may share a port
            holder = opened.enter_context(socket.socket(family, socket.SOCK_STREAM))
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            holder.bind(place)
            bound = holder.getsockname()
            opened.enter_context(socket.socket(socket.AF_UNIX)).bind(f"\0tokenrelay-gateway/{bound[0]}/{bound[1]}")
        except (OSError, UnicodeError):
            raise SettingError(
                "TOKENRELAY_HOST, TOKENRELAY_PORT",
                f"cannot listen on {addresses.join(host, port)}: the port is in use, or the address is not this machine's",
            ) from None
        return Held(bound[0], bound[1], opened.pop_all())

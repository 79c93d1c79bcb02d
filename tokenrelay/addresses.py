"""Host and port as one text, and back; an IPv6 address stands in brackets there."""

import ipaddress


def join(host: str, port: int) -> str:
    """Returns host:port; the host may be an IPv6 address with or without brackets."""
    return f"[{bare(host)}]:{port}" if is_ipv6(host) else f"{host}:{port}"


def bare(host: str) -> str:
    """Returns a host without the brackets of an IPv6 address, as sockets take it."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def is_loopback(host: str) -> bool:
    """Tells whether only this machine reaches a host to listen on; a name other than localhost counts as reachable."""
    try:
        return ipaddress.ip_address(bare(host)).is_loopback
    except ValueError:
        return host == "localhost"


def is_ipv6(host: str) -> bool:
    """Tells an IPv6 address from an IPv4 address and from a name."""
    return ":" in host

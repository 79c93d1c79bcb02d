"""A network of its own for a process, on a cable that can be pulled; needs root."""

import ipaddress
import json
import os
import random
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

# Where the networks are taken from: four addresses each.
ADDRESSES = ipaddress.IPv4Network("10.192.0.0/10")
PREFIX_LENGTH, ADDRESSES_EACH = 30, 4
TRIES = 100
CAPABILITIES = 1 << 12 | 1 << 21  # CAP_NET_ADMIN and CAP_SYS_ADMIN, as bits of the kernel's mask


class NetworkError(Exception):
    """A network could not be made or changed. Its text is for the user."""


class Network:
    """A network namespace for one process or several, with a cable to the machine.

    The process is started with `command_prefix` and keeps its id. It has a loopback interface of its own and one address;
    the machine is at `host_address`. Nothing else can be reached, the machine's loopback neither. So

    - what it calls must listen on `host_address`: a `TcpProxy(port, host=network.host_address)` passes that on to a service
      that listens on loopback only. A worker gets TOKENRELAY_REDIS_URL and TOKENRELAY_ENGINE_ADDRESS with that address, a
      gateway the first of them. Redis itself needs `--bind 127.0.0.1 <host_address>` and, from version 7 on,
      `--protected-mode no`.
    - what is called must listen on `address`: a gateway or an engine service gets it as TOKENRELAY_HOST, and all get it as
      TOKENRELAY_METRICS_HOST; Redis as `--bind <address>`, with the same `--protected-mode no`.

    While the cable is pulled, packets vanish in both directions, as beyond a switch that lost its power: both sides keep
    their addresses and routes, and neither is told. New connections end after three to four seconds in "no route to host",
    as no neighbour answers. After the cable is back, TCP goes on at its next try, which comes the later the longer it was gone.

    Raises:
        NetworkError: it cannot be made; also where `obstacle` says so.
    """

    def __init__(self) -> None:
        obstacle = self.obstacle()
        if obstacle is not None:
            raise NetworkError(obstacle)
        suffix = secrets.token_hex(4)
        self.name = f"drill-{suffix}"
        # An interface's name has 15 characters at most.
        self._bridge, self._outer, self._inner = (f"dr{kind}-{suffix}" for kind in ("b", "o", "i"))
        subnet = _free_subnet()
        self.host_address, self.address = (str(address) for address in subnet.hosts())
        self._is_open = True
        try:
            self._make(subnet.prefixlen)
        except NetworkError:
            self.close()
            raise

    @staticmethod
    def obstacle() -> str | None:
        """Returns why there can be no network on this machine, as a sentence; None if there can."""
        if not _may_make_networks():
            return "a network namespace can be made by root only, with the capabilities CAP_NET_ADMIN and CAP_SYS_ADMIN."
        if shutil.which("ip") is None:
            return "a network namespace is made with `ip` of iproute2, which is not on the PATH."
        return None

    @property
    def command_prefix(self) -> Sequence[str]:
        """What is to stand before a command, so that it runs in the network."""
        return ("ip", "netns", "exec", self.name)

    def take_down(self) -> None:
        """Pulls the cable."""
        _ip("link", "set", self._outer, "down")

    def bring_up(self) -> None:
        """Puts the cable back."""
        _ip("link", "set", self._outer, "up")

    def close(self) -> None:
        """Removes everything. Processes that still run in it are left without any network."""
        if not self._is_open:
            return
        self._is_open = False
        # Of a network that could not be made, some may be missing. The inner end goes with the outer one.
        for removal in (("link", "del", self._outer), ("link", "del", self._bridge), ("netns", "del", self.name)):
            subprocess.run(["ip", *removal], capture_output=True, check=False)

    def _make(self, prefix_length: int) -> None:
        # The machine's address is on a bridge: on the cable's end it would lose its route when that is taken down, and
        # packets for the namespace would leave by the machine's own network.
        _ip("netns", "add", self.name)
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("link", "add", self._outer, "type", "veth", "peer", "name", self._inner, "netns", self.name)
        _ip("link", "set", self._outer, "master", self._bridge)
        _ip("address", "add", f"{self.host_address}/{prefix_length}", "dev", self._bridge)
        _ip("-n", self.name, "address", "add", f"{self.address}/{prefix_length}", "dev", self._inner)
        for interface in (self._bridge, self._outer):
            _ip("link", "set", interface, "up")
        for interface in ("lo", self._inner):
            _ip("-n", self.name, "link", "set", interface, "up")


def _may_make_networks() -> bool:
    # Root in a container often lacks these.
    status = Path("/proc/self/status").read_text()
    (effective,) = [line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")]
    return os.geteuid() == 0 and int(effective, 16) & CAPABILITIES == CAPABILITIES


def _free_subnet() -> ipaddress.IPv4Network:
    """Returns a network that no route of the machine touches, at random: several drills may run at a time."""
    taken = [
        ipaddress.IPv4Network(route["dst"])
        for route in json.loads(_ip("-json", "-4", "route", "show", "table", "all"))
        if route["dst"] != "default"
    ]
    for _ in range(TRIES):
        place = random.randrange(ADDRESSES.num_addresses // ADDRESSES_EACH) * ADDRESSES_EACH
        subnet = ipaddress.IPv4Network((int(ADDRESSES.network_address) + place, PREFIX_LENGTH))
        if not any(subnet.overlaps(other) for other in taken):
            return subnet
    raise NetworkError(f"no free network in {ADDRESSES}: {len(taken)} routes touch it")


def _ip(*arguments: str) -> str:
    outcome = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if outcome.returncode != 0:
        raise NetworkError(f"`ip {' '.join(arguments)}` said: {outcome.stderr.strip()}")
    return outcome.stdout

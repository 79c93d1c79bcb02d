"""The address that is held for Envoy is nobody else's."""

import socket
from contextlib import closing

import pytest

from gateway.edge import listening
from tokenrelay.start_up import SettingError


def test_a_free_port_is_held_and_can_be_listened_on_beside() -> None:
    with closing(listening.hold("127.0.0.1", 0)) as held, closing(socket.socket()) as envoys:
        assert held.address == "127.0.0.1"
        assert held.port > 0
        envoys.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        envoys.bind((held.address, held.port))
        envoys.listen(1)


def test_two_gateways_cannot_hold_one_port_even_before_either_listens() -> None:
    with closing(listening.hold("127.0.0.1", 0)) as held, pytest.raises(SettingError, match="the port is in use"):
        listening.hold("127.0.0.1", held.port)
    listening.hold("127.0.0.1", held.port).close()


def test_a_port_that_another_process_listens_on_is_refused() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as other, pytest.raises(SettingError, match="the port is in use"):
        listening.hold("127.0.0.1", other.getsockname()[1])


@pytest.mark.parametrize("host", ["no such host", "2001:db8::1", "a" * 70])
def test_an_address_that_cannot_be_had_is_refused(host: str) -> None:
    with pytest.raises(SettingError, match="TOKENRELAY_HOST, TOKENRELAY_PORT"):
        listening.hold(host, 0)

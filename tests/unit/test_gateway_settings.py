"""A gateway does not serve strangers by mistake."""

import pytest
from pydantic import ValidationError

from gateway.settings import GatewaySettings
from tokenrelay import addresses

TLS = {"tls_certificate": "c", "tls_key": "k"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.5.0.1", "::1", "[::1]", "localhost"])
def test_loopback_is_for_everybody(host: str) -> None:
    assert addresses.is_loopback(host)
    GatewaySettings(host=host)
    GatewaySettings(host=host, auth="keys")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gateway.example"])
def test_beyond_loopback_strangers_and_plain_keys_must_be_asked_for(host: str) -> None:
    with pytest.raises(ValidationError, match="without authentication; set TOKENRELAY_AUTH=keys"):
        GatewaySettings(host=host)
    with pytest.raises(ValidationError, match="keys would cross the network readable"):
        GatewaySettings(host=host, auth="keys")
    GatewaySettings(host=host, allow_anonymous_network=True)
    GatewaySettings(host=host, auth="keys", allow_keys_in_plain_text=True)
    GatewaySettings(host=host, auth="keys", **TLS)  # type: ignore[arg-type]

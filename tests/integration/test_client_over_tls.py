"""The client library over TLS: what it sends, and what it says when the two sides do not agree."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from deploy.local.authority import Issued
from tests.integration.test_clients import LIMITS, expected
from tests.integration.test_command_line import assert_refused, invoke
from tests.support import stack as stacks
from tests.support.certificates import DAY, Files, authority
from tests.support.redis_server import RedisServer
from tests.support.stack import MODEL, Edge, Gateway, Stack
from tests.support.waiting import eventually
from tokenrelay.client import AsyncClient, Client, RetryPolicy, Tls
from tokenrelay.errors import HandshakeError, TokenrelayError, UnavailableError

AUTHORITY, STRANGER = authority(), authority("stranger")
LATE = timedelta(minutes=-1)
OTHER_NAME = "gateway.example"


@dataclass
class Place:
    """A stack, and a folder with everybody's files."""

    stack: Stack
    folder: Path
    waits: list[TokenrelayError] = field(default_factory=list)

    @property
    def files(self) -> Files:
        return Files.within(self.folder)

    async def gateway(self, shown: Issued, **settings: Any) -> Gateway:
        self.files.write(shown)
        self.files.client_ca.write_bytes(AUTHORITY.own.certificate)
        return await self.stack.add_gateway(**self.files.settings, **settings)

    async def strict_gateway(self) -> Gateway:
        """Starts a gateway that asks for clients' certificates."""
        return await self.gateway(AUTHORITY.server(DAY), tls_client_ca=str(self.files.client_ca))

    def tls(self, own: Issued | None = None, ca: bytes = AUTHORITY.own.certificate, **how: Any) -> Tls:
        trusted = self.folder / "trusted.crt"
        trusted.write_bytes(ca)
        if own is None:
            return Tls(ca=trusted, **how)
        certificate, key = self.folder / "client.crt", self.folder / "client.key"
        certificate.write_bytes(own.certificate)
        key.write_bytes(own.key)
        return Tls(ca=trusted, certificate=certificate, key=key, **how)

    def client(self, targets: str, tls: Tls | None) -> AsyncClient:
        return AsyncClient(targets, tls=tls, retry=RetryPolicy(on_wait=lambda error, _: self.waits.append(error)))


@pytest.fixture
async def place(own_redis: RedisServer, tmp_path: Path, edge: Edge) -> AsyncIterator[Place]:
    async with stacks.opened(own_redis.url, edge) as opened:
        yield Place(opened, tmp_path)


async def served(place: Place) -> tuple[Gateway, Tls]:
    """Starts a stack that serves, with a gateway that asks for certificates; returns the gateway and what it accepts."""
    gateway = await place.strict_gateway()
    await place.stack.add_worker(await place.stack.add_engine())
    tls = place.tls(AUTHORITY.client("somebody", DAY))
    async with place.client(gateway.target, tls) as client:

        async def is_served() -> bool:
            return [model.name for model in await client.models()] == [MODEL]

        await eventually(is_served, "the worker is seen")
    return gateway, tls


async def test_both_clients_speak_tls(place: Place) -> None:
    gateway, tls = await served(place)
    async with place.client(gateway.target, tls) as client, client.stream("hello", **LIMITS) as stream:
        assert await stream.text() == expected()[1]

    def call() -> str:
        with Client(gateway.target, tls=tls) as client:
            return client.generate("hello", **LIMITS).choices[0].text

    assert await asyncio.to_thread(call) == expected()[1]


@pytest.mark.parametrize(
    ("shown", "ca", "said"),
    [
        (AUTHORITY.server(DAY), STRANGER.own.certificate, "an authority that this client does not trust"),
        (AUTHORITY.server(LATE), AUTHORITY.own.certificate, "its certificate has expired"),
        (AUTHORITY.server(DAY, (OTHER_NAME,)), AUTHORITY.own.certificate, "its certificate is for another name"),
    ],
    ids=["another authority", "expired", "another name"],
)
async def test_a_certificate_that_the_client_refuses_is_told_from_a_gateway_that_is_away(
    place: Place, shown: Issued, ca: bytes, said: str
) -> None:
    gateway = await place.gateway(shown)
    await refused(place, gateway.target, place.tls(ca=ca), said)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (None, "asks for a client certificate"),
        (STRANGER.client("somebody", DAY), "does not accept this client's certificate"),
        (AUTHORITY.client("somebody", LATE), "this client's certificate"),
    ],
    ids=["none", "of another authority", "expired"],
)
async def test_a_client_certificate_that_the_gateway_refuses_is_told_from_a_gateway_that_is_away(
    place: Place, own: Issued | None, said: str
) -> None:
    gateway = await place.strict_gateway()
    await refused(place, gateway.target, place.tls(own), said)


async def test_who_speaks_tls_and_who_does_not_is_said(place: Place) -> None:
    secure = await place.gateway(AUTHORITY.server(DAY))
    await refused(place, secure.target, None, "it speaks TLS only; connect with tls=")
    strict = await place.strict_gateway()
    await refused(place, strict.target, None, "it speaks TLS only; connect with tls=")
    plain = await place.stack.add_gateway()
    await refused(place, plain.target, place.tls(), "it speaks no TLS")


async def refused(place: Place, target: str, tls: Tls | None, said: str) -> None:
    """Has both clients call, and checks that they say so at once."""
    async with place.client(target, tls) as client:
        with pytest.raises(HandshakeError, match=f"no secure connection to {target}: .*{said}"):
            await client.models()
        with pytest.raises(HandshakeError, match=said):
            async with client.stream("hello") as stream:
                await stream.text()

    def call() -> None:
        with Client(target, tls=tls) as client, pytest.raises(HandshakeError, match=said):
            client.models()

    await asyncio.to_thread(call)
    assert place.waits == []


async def test_a_name_that_the_certificate_has_is_accepted_for_any_target(place: Place) -> None:
    gateway = await place.gateway(AUTHORITY.server(DAY, (OTHER_NAME,)))
    async with place.client(gateway.target, place.tls(server_name=OTHER_NAME)) as client:
        assert await client.models() == []


async def test_a_gateway_whose_handshake_fails_is_passed_over_for_another(place: Place) -> None:
    other = place.folder / "other"
    other.mkdir()
    good = await place.gateway(AUTHORITY.server(DAY))
    files = Files.within(other)
    files.write(AUTHORITY.server(LATE))
    bad = await place.stack.add_gateway(**files.settings)
    async with place.client(f"{bad.target},{good.target}", place.tls()) as client:
        assert await client.models() == []
    assert [type(error) for error in place.waits] == [HandshakeError]


async def test_the_command_line_speaks_tls(place: Place) -> None:
    gateway = await place.strict_gateway()
    tls = place.tls(AUTHORITY.client("somebody", DAY))
    ca, certificate, key = (str(file) for file in (tls.ca, tls.certificate, tls.key))
    target = ("--target", gateway.target)
    options = ("--tls-ca", ca, "--tls-certificate", certificate, "--tls-key", key)
    variables = {
        "TOKENRELAY_TLS_CA": ca,
        "TOKENRELAY_TLS_CLIENT_CERTIFICATE": certificate,
        "TOKENRELAY_TLS_CLIENT_KEY": key,
    }
    assert (await invoke(*target, *options, "models")).exit_code == 0
    assert (await invoke(*target, "models", variables=variables)).exit_code == 0
    await assert_refused("it speaks TLS only; connect with tls= (or --tls", *target, "models")
    await assert_refused("it speaks TLS only", *target, "--no-tls", "models", variables=variables)
    await assert_refused("asks for a client certificate", *target, "--tls-ca", ca, "models")
    await assert_refused("does not trust; name the authority's file (tls=, or --tls-ca)", *target, "--tls", "models")
    await assert_refused("a certificate needs its key", *target, "--tls-certificate", certificate, "models", status=2)
    await assert_refused("nowhere cannot be read", *target, "--tls-ca", "/nowhere", "models", status=2)


async def test_an_absent_gateway_is_still_waited_for(place: Place) -> None:
    async with AsyncClient("127.0.0.1:1", tls=place.tls(), retry=RetryPolicy(give_up_after=0.3)) as client:
        with pytest.raises(UnavailableError, match="no gateway answers at"):
            await client.models()

"""TLS on the Envoy edge: how Envoy gets the pair, who can read the key, and what Envoy cannot use."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from deploy.local.authority import Issued
from gateway.edge.envoy_admin import Admin
from tests.integration.conftest import spec
from tests.integration.test_settings_unreachable import run
from tests.integration.test_tls import AUTHORITY, channel, wait_until_served, wait_until_shown
from tests.support import stack as stacks
from tests.support.certificates import DAY, Files
from tests.support.gateway_process import GatewayProcess
from tests.support.redis_server import RedisServer
from tests.support.stack import Edge, Stack
from tests.support.waiting import eventually
from tokenrelay.v1 import generation_service_pb2 as s
from tokenrelay.v1 import generation_service_pb2_grpc

pytestmark = pytest.mark.edge("envoy")


@pytest.fixture
async def stack(own_redis: RedisServer, edge: Edge) -> AsyncIterator[Stack]:
    """A stack on one kind of Redis; TLS does not depend on it."""
    async with stacks.opened(own_redis.url, edge) as opened:
        yield opened


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files.holding(tmp_path, AUTHORITY.server(DAY), AUTHORITY)


@pytest.fixture
async def gateway(stack: Stack, files: Files) -> GatewayProcess:
    return await stack.add_gateway_process(**files.settings)


def of_a_kind_that_envoy_does_not_know() -> Issued:
    """Returns a pair that fits, whose key is on a curve of Bitcoin's."""
    key = ec.generate_private_key(ec.SECP256K1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + DAY)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    return Issued(certificate, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


async def test_the_key_lies_in_no_file_once_envoy_has_it(gateway: GatewayProcess, files: Files) -> None:
    folder = gateway.folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    second = AUTHORITY.server(DAY)
    files.write(second)
    await wait_until_shown(gateway, second)
    await eventually(lambda: sorted(path.name for path in folder.iterdir()) == ["admin.sock", "envoy.json"], "they are gone")
    secret = second.key.splitlines()[1].decode()
    for said in (folder / "envoy.json", *(Path(f"/proc/{gateway.envoy()}/{name}") for name in ("cmdline", "environ"))):
        assert secret not in said.read_text()


async def test_a_stream_goes_on_while_new_connections_are_shown_the_newest_pair(stack: Stack, files: Files) -> None:
    await stack.add_worker(await stack.add_engine(simulated_step_ms=20.0))
    gateway = await stack.add_gateway(**files.settings)
    await wait_until_served(gateway)
    async with channel(gateway) as opened:
        request = s.GenerateStreamRequest(spec=spec(max_tokens=100_000))
        call: Any = generation_service_pb2_grpc.GenerationServiceStub(opened).GenerateStream(request, timeout=60)
        sequence = 0
        for _ in range(5):
            fresh = AUTHORITY.server(DAY)
            files.rename_over(fresh)
            shown = asyncio.create_task(wait_until_shown(gateway, fresh))
            while not shown.done():
                event = (await call.read()).event
                if event.HasField("delta"):
                    assert event.sequence == sequence + len(event.delta.token_ids)
                    sequence = event.sequence
            shown.result()
        call.cancel()


async def test_a_pair_that_envoy_cannot_use_is_refused_and_the_old_one_stays(gateway: GatewayProcess, files: Files) -> None:
    first, third = Issued(files.certificate.read_bytes(), files.key.read_bytes()), AUTHORITY.server(DAY)
    admin = Admin(gateway.folder() / "admin.sock")
    refusals = "sds.certificate.update_rejected"

    async def is_refused() -> bool:
        return bool((await admin.statistics(refusals))[refusals])

    files.write(of_a_kind_that_envoy_does_not_know())
    await eventually(is_refused, "Envoy has refused it")
    await wait_until_shown(gateway, first)
    files.write(third)
    await wait_until_shown(gateway, third)


def test_a_gateway_does_not_start_with_a_pair_that_envoy_cannot_use(files: Files) -> None:
    files.write(of_a_kind_that_envoy_does_not_know())
    variables = {"TOKENRELAY_TLS_CERTIFICATE": str(files.certificate), "TOKENRELAY_TLS_KEY": str(files.key)}
    # Nor does it wait for Redis before it says so.
    status, said = run("gateway on envoy", TOKENRELAY_REDIS_URL="redis://127.0.0.1:1/0", **variables)
    assert status == 2
    assert "\nTOKENRELAY_TLS_CERTIFICATE: is of a kind that Envoy does not take" in said

"""The way from worker to engine service over TLS: both show who they are, and others are refused."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from broker_worker.engine_link import EngineLink
from broker_worker.settings import WorkerSettings
from deploy.local.authority import Authority
from tests.integration.conftest import spec
from tests.integration.test_calls import read, tokens
from tests.support.certificates import DAY, Files, authority
from tests.support.stack import Stack
from tests.support.waiting import eventually
from tokenrelay.start_up import StartUpError
from tokenrelay.v1 import generation_service_pb2 as s

WORKER = "worker.test"

pytestmark = pytest.mark.edge("grpcio")  # the gateway has no part in this


@dataclass
class Pki:
    """An authority, and the files of an engine service and of a worker."""

    authority: Authority
    folder: Path

    def engine(self, **values: Any) -> dict[str, Any]:
        files = Files.holding(self._folder("engine"), self.authority.server(DAY), self.authority)
        return {**files.settings_with_client_ca, "tls_client_names": WORKER, **values}

    def worker(self, name: str = WORKER, by: Authority | None = None) -> dict[str, Any]:
        files = Files.holding(self._folder("worker"), (by or self.authority).client(name, DAY), self.authority)
        return {
            "engine_tls_ca": str(files.client_ca),
            "engine_tls_certificate": str(files.certificate),
            "engine_tls_key": str(files.key),
        }

    def _folder(self, name: str) -> Path:
        made = self.folder / name
        made.mkdir(exist_ok=True)
        return made


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(authority(), tmp_path)


async def test_worker_and_engine_service_know_each_other(stack: Stack, pki: Pki) -> None:
    engine = await stack.add_engine(**pki.engine())
    await stack.add_worker(engine, **pki.worker())
    gateway = await stack.add_gateway()
    await stack.wait_until_served(gateway)
    answer = await stack.stub(gateway).Generate(s.GenerateRequest(spec=spec(max_tokens=5)))
    assert answer.generation.sequence == 5


@pytest.mark.parametrize("fault", ["another name", "another authority", "no certificate", "plain text"])
async def test_a_stranger_gets_nothing_from_the_engine(stack: Stack, pki: Pki, fault: str) -> None:
    engine = await stack.add_engine(**pki.engine())
    settings: dict[str, Any] = {}
    if fault != "plain text":
        settings = pki.worker("gateway.test" if fault == "another name" else WORKER)
    if fault == "another authority":
        settings = pki.worker(by=authority("others"))
    if fault == "no certificate":
        del settings["engine_tls_certificate"], settings["engine_tls_key"]
    with stack.captured_logs() as captured:
        await stack.add_worker(engine, **settings)
        await eventually(lambda: bool(captured.lines("waiting for the engine service")), "the worker waits")
    assert not captured.lines("at work")


async def test_certificates_are_replaced_without_a_break(stack: Stack, pki: Pki) -> None:
    engine = await stack.add_engine(simulated_step_ms=2.0, **pki.engine())
    await stack.add_worker(engine, **pki.worker())
    gateway = await stack.add_gateway()
    await stack.wait_until_served(gateway)
    stub = stack.stub(gateway)
    running = asyncio.create_task(read(stub.GenerateStream(s.GenerateStreamRequest(spec=spec(max_tokens=1000)))))
    with stack.captured_logs() as captured:
        pki.engine()
        await eventually(lambda: bool(captured.lines("certificate replaced")), "the engine service has taken it up")
    pki.worker()
    assert len(tokens(await running)) == 1000
    await stack.add_worker(engine, **pki.worker())
    await stack.wait_until_served(gateway, 2)


def test_a_file_that_cannot_be_used_is_named(pki: Pki) -> None:
    settings = WorkerSettings(**{**pki.worker(), "engine_tls_key": str(pki.folder / "nowhere")})
    with pytest.raises(StartUpError, match=r"TOKENRELAY_ENGINE_TLS_KEY: .*nowhere cannot be read"):
        EngineLink(settings.engine_address, 5.0, settings.engine_tls)
    without_key = settings.model_copy(update={"engine_tls_key": None})
    with pytest.raises(StartUpError, match="TOKENRELAY_ENGINE_TLS_KEY: a certificate needs its key"):
        EngineLink(settings.engine_address, 5.0, without_key.engine_tls)

"""Clients of other makers, over plain text and TLS: unary, stream, cancel and an error's details with each of them."""

import asyncio
import base64
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.rpc import error_details_pb2, status_pb2

from tests.integration.test_clients import ROOT, expected, run
from tests.support import site
from tests.support import stack as stacks
from tests.support.certificates import DAY, Files, authority
from tests.support.redis_server import RedisServer
from tests.support.stack import MODEL, Edge, Stack
from tests.support.waiting import eventually
from tokenrelay.client import AsyncClient, Tls
from tokenrelay.v1 import generation_pb2 as g

AUTHORITY = authority()
SERVICE = "tokenrelay.v1.GenerationService"
NODE, GRPCURL, BUF = (str(ROOT / path) for path in (".venv/bin/node", ".venv/bin/grpcurl", "node_modules/.bin/buf"))
SHORT = {"spec": {"text": "hello", "samplingParams": {"maxTokens": 20, "ignoreEos": True}}}
LONG = {"spec": {"text": "hello", "samplingParams": {"maxTokens": 100_000, "ignoreEos": True}}}
INVALID_ARGUMENT, CANCELLED = 3, 1


@dataclass
class Place:
    """A gateway that serves, and what a client needs to reach it."""

    target: str
    tls: Tls | None

    @property
    def url(self) -> str:
        return f"http{'s' if self.tls else ''}://{self.target}"

    async def ends_cancelled(self, generation_id: str) -> None:
        async def is_cancelled() -> bool:
            async with AsyncClient(self.target, tls=self.tls) as client:
                return (await client.get(generation_id)).state == g.GENERATION_STATE_CANCELLED

        await eventually(is_cancelled, "the generation is cancelled")


@dataclass
class Maker:
    """Makes places over one Redis."""

    stack: Stack
    folder: Path
    is_secure: bool
    asks_for_certificates: bool = True

    async def make(self, **settings: Any) -> Place:
        tls = None
        if self.is_secure:
            files = Files.holding(self.folder, AUTHORITY.server(DAY), AUTHORITY)
            asks = self.asks_for_certificates
            settings |= files.settings_with_client_ca if asks else files.settings
            own, certificate, key = AUTHORITY.client("somebody", DAY), self.folder / "own.crt", self.folder / "own.key"
            certificate.write_bytes(own.certificate)
            key.write_bytes(own.key)
            tls = Tls(ca=files.client_ca, certificate=certificate, key=key) if asks else Tls(ca=files.client_ca)
        gateway = await self.stack.add_gateway(disconnect_grace_seconds=0.1, **settings)
        await self.stack.add_worker(await self.stack.add_engine())
        async with AsyncClient(gateway.target, tls=tls) as client:

            async def is_served() -> bool:
                return [model.name for model in await client.models()] == [MODEL]

            await eventually(is_served, "the worker is seen")
        return Place(gateway.target, tls)


@pytest.fixture(params=["plain", "tls"])
async def maker(request: pytest.FixtureRequest, own_redis: RedisServer, edge: Edge, tmp_path: Path) -> AsyncIterator[Maker]:
    async with stacks.opened(own_redis.url, edge) as opened:
        yield Maker(opened, tmp_path, request.param == "tls")


def grpcurl(place: Place, method: str, request: Any) -> list[str]:
    tls = place.tls
    how = ["-cacert", tls.ca, "-cert", tls.certificate, "-key", tls.key] if tls else ["-plaintext"]
    return [GRPCURL, *map(str, how), "-d", json.dumps(request), place.target, f"{SERVICE}/{method}"]


def buf(protocol: str) -> "Command":
    def command(place: Place, method: str, request: Any) -> list[str]:
        tls = place.tls
        how = ["--cacert", tls.ca, "--cert", tls.certificate, "--key", tls.key] if tls else []
        if protocol == "grpc" and not tls:
            how = ["--http2-prior-knowledge"]
        words = [BUF, "curl", "--protocol", protocol, *map(str, how), "-d", json.dumps(request)]
        return [*words, f"{place.url}/{SERVICE}/{method}"]

    return command


Command = Callable[[Place, str, Any], list[str]]


def objects(text: str) -> list[Any]:
    """Returns the JSON objects that follow each other in a text; what is cut off at its end is left out."""
    decoder, found, rest = json.JSONDecoder(), [], text.strip()
    while rest:
        try:
            one, end = decoder.raw_decode(rest)
        except json.JSONDecodeError:
            break
        found.append(one)
        rest = rest[end:].lstrip()
    return found


async def calls_by(command: Command, place: Place) -> str:
    """Makes all kinds of calls with a program that knows the contract by reflection; returns what it says of the error."""
    code, out, err = await run(*command(place, "Generate", SHORT))
    assert code == 0, err
    assert json.loads(out)["generation"]["choices"][0]["text"] == expected()[1]
    code, out, err = await run(*command(place, "GenerateStream", SHORT))
    assert code == 0, err
    events = [one["event"] for one in objects(out)]
    assert "accepted" in events[0]
    assert "finished" in events[-1]
    assert "".join(event.get("delta", {}).get("text", "") for event in events) == expected()[1]
    await place.ends_cancelled(await left_by(command(place, "GenerateStream", LONG)))
    code, _, err = await run(*command(place, "Generate", {}))
    assert code != 0
    return err


async def left_by(command: list[str]) -> str:
    """Has a program read a stream and leave it; returns the generation's id."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdout=pipe, stderr=asyncio.subprocess.DEVNULL, start_new_session=True
    )
    assert process.stdout is not None
    read = ""
    events: list[Any] = []
    while not any("delta" in one["event"] for one in events):
        chunk = await process.stdout.read(1000)
        assert chunk, read
        read += chunk.decode(errors="ignore")  # a piece may end within a character
        events = objects(read)
    os.killpg(process.pid, signal.SIGTERM)  # buf is a child of the script that npm made for it
    await asyncio.gather(process.stdout.read(), process.wait())
    (generation_id,) = events[0]["event"]["accepted"].values()  # its only field, which grpcurl names as the proto does
    return str(generation_id)


async def test_grpcurl(maker: Maker) -> None:
    said = await calls_by(grpcurl, await maker.make())
    assert "Code: InvalidArgument" in said
    assert "Message: spec: is required" in said
    assert '"reason":"INVALID_REQUEST"' in said


async def test_buf_curl(maker: Maker) -> None:
    says_what_is_wrong(await calls_by(buf("grpc"), await maker.make()))


@pytest.mark.edge("envoy")
async def test_buf_curl_with_grpc_web(maker: Maker) -> None:
    says_what_is_wrong(await calls_by(buf("grpcweb"), await maker.make()))


def says_what_is_wrong(printed: str) -> None:
    error = json.loads(printed)
    assert (error["code"], error["message"]) == ("invalid_argument", "spec: is required")
    details = {detail["type"]: base64.b64decode(detail["value"] + "==") for detail in error["details"]}
    assert error_details_pb2.ErrorInfo.FromString(details["google.rpc.ErrorInfo"]).reason == "INVALID_REQUEST"


async def test_grpc_js(maker: Maker) -> None:
    place = await maker.make()
    tls = place.tls
    files = (str(tls.ca), str(tls.key), str(tls.certificate)) if tls else ()
    protos = (str(ROOT / "protos"), str(ROOT / ".venv/share/protos"))
    code, out, err = await run(NODE, "tests/javascript/client.js", place.target, *protos, *files)
    assert code == 0, err
    got = {line["what"]: line for line in map(json.loads, out.splitlines())}
    ids, text = expected("hello from javascript", max_tokens=8)
    assert (got["unary"]["state"], got["unary"]["tokens"], got["unary"]["text"]) == ("GENERATION_STATE_FINISHED", ids, text)
    assert got["stream"]["tokens"] == ids
    assert (got["stream"]["events"][0], got["stream"]["events"][-1]) == ("accepted", "finished")
    assert got["cancel"]["state"] == "GENERATION_STATE_RUNNING"
    assert (got["cancelled"]["code"], got["cancelled"]["message"]) == (CANCELLED, "the generation was cancelled")
    assert got["left"]["code"] == CANCELLED
    await place.ends_cancelled(got["left"]["id"])
    assert (got["failed"]["code"], got["failed"]["message"]) == (INVALID_ARGUMENT, "spec: is required")
    status, info = status_pb2.Status.FromString(base64.b64decode(got["failed"]["status"])), error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    assert info.reason == "INVALID_REQUEST"


async def opened_in_chromium(place: Place, origin: str) -> Any:
    """Has Chromium open the page of a site, which then calls a gateway; returns what came of it."""
    # The authority is none that browsers know, so Chromium is told which key to trust.
    key = key_hash((Path(str(place.tls.ca)).parent / "tls.crt").read_bytes()) if place.tls else ()
    command = (NODE, "tests/javascript/browser.mjs", f"{origin}{site.PAGE}?{place.url}", *key)
    # Without a proxy, which the machine may have for the world outside.
    code, out, err = await run(*command, **{name: "" for name in os.environ if name.lower().endswith("_proxy")})
    assert code == 0, err
    return json.loads(out)


def key_hash(certificate: bytes) -> tuple[str]:
    public = x509.load_pem_x509_certificate(certificate).public_key()
    raw = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return (base64.b64encode(sha256(raw).digest()).decode(),)


@pytest.mark.edge("envoy")
async def test_connect_web_in_chromium(maker: Maker) -> None:
    maker.asks_for_certificates = False  # a browser would ask its user which one to show
    with site.served() as origin:
        place = await maker.make(cors_origins=origin)
        opened = await opened_in_chromium(place, origin)
    assert opened["complaints"] == []
    got = opened["calls"]
    ids, text = expected("hello from a page", max_tokens=8)
    assert [model["id"] for model in got["models"]["data"]] == [MODEL]
    assert got["unary"] == {"state": g.GENERATION_STATE_FINISHED, "tokens": ids, "text": text}
    assert got["stream"]["tokens"] == ids
    assert (got["stream"]["events"][0], got["stream"]["events"][-1]) == ("accepted", "finished")
    assert got["cancel"]["state"] == g.GENERATION_STATE_RUNNING
    assert (got["cancel"]["code"], got["cancel"]["message"]) == ("Canceled", "the generation was cancelled")
    assert got["leave"]["code"] == "Canceled"
    await place.ends_cancelled(got["leave"]["id"])
    assert got["fail"] == {"code": "InvalidArgument", "message": "spec: is required", "reasons": ["INVALID_REQUEST"]}


@pytest.mark.edge("envoy")
async def test_chromium_lets_no_other_page_call(maker: Maker) -> None:
    maker.asks_for_certificates = False
    with site.served() as origin:
        place = await maker.make(cors_origins="https://chat.example.com")
        opened = await opened_in_chromium(place, origin)
    assert "Failed to fetch" in opened["calls"]["broken"]
    assert any("CORS policy" in complaint for complaint in opened["complaints"])

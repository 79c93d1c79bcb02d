"""Keys over plain HTTP, on the edge that speaks it."""

from collections.abc import AsyncIterator

import httpx
import pytest

from tests.integration.test_authentication import wait_until_served
from tests.support import stack as stacks
from tests.support.api_keys import Keys, keys_of, shown
from tests.support.redis_server import RedisServer
from tests.support.stack import MODEL
from tokenrelay.identity.api_keys import ApiKey, KeyKind
from tokenrelay.identity.callers import Scope


@pytest.fixture
async def admin(own_redis: RedisServer) -> AsyncIterator[Keys]:
    async with keys_of(own_redis.url) as keys:
        await keys.tenant("acme")
        yield keys


@pytest.fixture
async def client(own_redis: RedisServer, admin: Keys) -> AsyncIterator[httpx.AsyncClient]:
    async with stacks.opened(own_redis.url, "envoy") as stack:
        await stack.add_worker(await stack.add_engine())
        gateway = await stack.add_gateway(auth="keys")
        await wait_until_served(stack, gateway, await admin.new("acme"))
        async with httpx.AsyncClient(base_url=f"http://{gateway.target}", trust_env=False, timeout=60) as opened:
            yield opened


async def test_a_key_opens_what_its_scopes_say(client: httpx.AsyncClient, admin: Keys) -> None:
    answer = await client.get("/v1/models", headers=list(shown(await admin.new("acme"))))
    assert [model["id"] for model in answer.json()["data"]] == [MODEL]
    answer = await client.get("/v1/models", headers=list(shown(await admin.new("acme", scopes=frozenset({Scope.READ})))))
    assert answer.status_code == 403
    assert answer.json()["error"]["message"] == "the key lacks the scope 'models'"


@pytest.mark.parametrize("path", ["/v1/models", "/v1/nothing", "/"])
async def test_strangers_learn_nothing(client: httpx.AsyncClient, path: str) -> None:
    for headers in ([], list(shown("trk_x")), list(shown(ApiKey.new(KeyKind.CALLS)))):
        answer = await client.get(path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"] == {
            "message": "authorization: a valid key is required, as in 'authorization: Bearer trk_…'",
            "type": "authentication_error",
            "param": None,
            "code": "unauthenticated",
        }


async def test_load_balancers_need_no_key(client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).status_code == 200

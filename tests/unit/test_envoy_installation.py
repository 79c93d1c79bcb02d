"""The variables that Envoy is started with."""

from pathlib import Path

import pytest

from gateway.edge.installation import Installation

LIBPYTHON = Path("/lib/libpython3.so")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "/lib/libpython3.so"),
        ({"LD_PRELOAD": ""}, "/lib/libpython3.so"),
        ({"LD_PRELOAD": "/lib/jemalloc.so:/lib/other.so"}, "/lib/libpython3.so:/lib/jemalloc.so:/lib/other.so"),
    ],
)
def test_what_is_preloaded_stays_so(given: dict[str, str], wanted: str) -> None:
    installation = Installation(envoy=Path("envoy"), module=Path("module"), libpython=LIBPYTHON)
    assert installation.environment(given)["LD_PRELOAD"] == wanted

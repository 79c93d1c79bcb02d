"""The places at which the drills kill processes are named as texts; each must be there, or its drill does not even start."""

import functools
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from drills.failpoints import FOLDER_VARIABLE, INSIDE_ENVOY, POINTS, Failpoints, Point
from gateway.edge import envoy_configuration


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_each_place_is_there(point: Point) -> None:
    place = functools.reduce(getattr, point.path.split("."), importlib.import_module(point.module))
    assert callable(place)


def test_envoy_is_told_what_to_load_by_a_name_that_is_there() -> None:
    module, _, name = envoy_configuration.APPLICATION.partition(":")
    assert callable(getattr(importlib.import_module(module), name))


def test_the_application_inside_envoy_has_its_points_watched(tmp_path: Path) -> None:
    points = Failpoints(tmp_path / "points")
    points.arm("gateway-before-submit")
    module, _, name = INSIDE_ENVOY.partition(":")
    reach = "from tokenrelay.store.generations import Generations; import asyncio"
    program = f"from {module} import {name}; {reach}; asyncio.run(Generations.submit(None))"
    environment = {**os.environ, FOLDER_VARIABLE: str(points.folder)}
    child = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert child.returncode == -signal.SIGKILL
    # What started Envoy is what a supervisor knows of; here that is this process.
    assert points.hit("gateway-before-submit") == os.getpid()

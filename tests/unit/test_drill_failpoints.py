"""The places at which the drills kill processes are named as texts; each must be there, or its drill does not even start."""

import functools
import importlib

import pytest

from drills.failpoints import POINTS, Point


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.name)
def test_each_place_is_there(point: Point) -> None:
    place = functools.reduce(getattr, point.path.split("."), importlib.import_module(point.module))
    assert callable(place)

"""Waiting for something to become so, as drills do."""

from drills.waiting import PATIENCE, eventually

__all__ = ["PATIENCE", "eventually"]

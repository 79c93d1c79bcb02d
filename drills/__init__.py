"""Drills: the stack as real processes under load and faults, and what it did checked from its history."""

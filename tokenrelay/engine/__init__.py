"""Stubs of the internal contracts with the engine service."""

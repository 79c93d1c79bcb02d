"""Stubs of what lies in Redis."""

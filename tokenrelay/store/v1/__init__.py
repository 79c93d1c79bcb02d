"""Stubs of what lies in Redis, generated from protos/tokenrelay/store/v1."""

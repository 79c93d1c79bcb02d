"""Stubs of the public contract, generated from protos/tokenrelay/v1."""

"""Stubs of the contract from worker to engine service, generated from protos/tokenrelay/engine/v1."""

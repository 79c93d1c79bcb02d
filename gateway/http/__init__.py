"""HTTP on the gateway's core: one module for each resource, which application.py gathers.

A new resource is a module with a function `routes`, named in application.py. It knows the core, and neither gRPC nor Envoy.
"""

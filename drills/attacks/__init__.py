"""Hostile clients: malformed requests, broken and flooding frames, callers that stall.

Every request that is answered must be answered with a proper status, and what could be answered must be.
"""

"""The gateway over gRPC: one servicer a service."""

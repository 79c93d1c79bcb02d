"""How our gRPC servers serve: the server itself, the steps that every call takes, health, and reflection."""

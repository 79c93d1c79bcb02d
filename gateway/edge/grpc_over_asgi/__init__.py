"""gRPC over ASGI: stands where grpc.aio.server stands, and takes the generated servicers as they are."""

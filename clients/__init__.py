"""The user's side: a client library, synchronous and asynchronous, and a command line.

    from clients import Client

    with Client("localhost:50051") as client, client.stream("Tell me a story.") as stream:
        for delta in stream:
            print(delta.text, end="")

What comes back are the contract's own messages, tokenrelay.v1; errors are the tree of tokenrelay.errors.
"""

from clients.async_client import AsyncClient, AsyncStream
from clients.client import Client, Stream
from clients.requests import Prompt
from clients.resumption import RetryPolicy
from tokenrelay.errors import TokenrelayError

__all__ = ["AsyncClient", "AsyncStream", "Client", "Prompt", "RetryPolicy", "Stream", "TokenrelayError"]

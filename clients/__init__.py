"""The user's side: a client library, synchronous and asynchronous, and a command line.

    from tokenrelay.client import Client

    with Client("localhost:50051") as client, client.stream("Tell me a story.") as stream:
        for delta in stream:
            print(delta.text, end="")

What comes back are the contract's own messages, tokenrelay.v1; errors are the tree of tokenrelay.errors. An argument of a
wrong type is a TypeError. A lost connection is no error: the library goes on as RetryPolicy says.
"""

from tokenrelay.client.async_client import AsyncClient, AsyncStream
from tokenrelay.client.client import Client, Stream
from tokenrelay.client.requests import Options, Prompt
from tokenrelay.client.resumption import RetryPolicy
from tokenrelay.client.tls import Tls
from tokenrelay.errors import TokenrelayError

__all__ = ["AsyncClient", "AsyncStream", "Client", "Options", "Prompt", "RetryPolicy", "Stream", "Tls", "TokenrelayError"]

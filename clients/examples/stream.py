"""An answer as it comes: `python -m tokenrelay.client.examples.stream [host:port]`."""

import sys

from tokenrelay.client import Client

with Client(*sys.argv[1:]) as client, client.stream("Tell me a story about a river.", max_tokens=120, temperature=0) as stream:
    for delta in stream:
        print(delta.text, end="", flush=True)

print(f"\n-- {stream.generation_id}")

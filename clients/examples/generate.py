"""A whole answer, with what it took: `python -m tokenrelay.client.examples.generate [host:port]`."""

import sys

from tokenrelay.client import Client

with Client(*sys.argv[1:]) as client:
    generation = client.generate("Tell me about the sea.", max_tokens=80, temperature=0)

print(generation.choices[0].text)
print(f"{generation.usage.completion_tokens} tokens in {generation.timings.total.ToMilliseconds()} ms")

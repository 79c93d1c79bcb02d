"""What a refusal looks like, and a cancel: `python -m tokenrelay.client.examples.handle_errors [host:port]`."""

import sys

from tokenrelay import errors
from tokenrelay.client import Client

with Client(*sys.argv[1:]) as client:
    try:
        client.generate("Hello!", temperature=9)
    except errors.InvalidRequestError as error:
        for violation in error.violations:
            print(f"wrong: {violation.field} {violation.description}")

    with client.stream("Tell me a story about a train.", max_tokens=200) as stream:
        for _ in stream:
            break  # leaving the block cancels the generation
    print(f"cancelled {stream.generation_id}")

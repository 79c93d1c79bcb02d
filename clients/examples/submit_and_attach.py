"""A generation that runs by itself, read twice: `python -m tokenrelay.client.examples.submit_and_attach [host:port]`."""

import sys

from tokenrelay.client import Client

with Client(*sys.argv[1:]) as client:
    generation_id = client.submit("Count from one to twenty.", max_tokens=120, temperature=0)
    print(f"submitted {generation_id}")

    with client.attach(generation_id) as stream:
        text = ""
        for delta in stream:
            text += delta.text
            if stream.position.sequence >= 10:
                break
    print(f"left after sequence {stream.position.sequence}: {text!r}")

    with client.attach(generation_id, after_sequence=stream.position.sequence) as rest:
        print(f"came back for the rest: {rest.text()!r}")

"""A conversation by the model's chat template: `python -m tokenrelay.client.examples.chat [host:port]`."""

import sys

from tokenrelay.client import Client

QUESTIONS = ("Hello!", "What is a queue?", "Name five animals.")

with Client(*sys.argv[1:]) as client:
    messages: list[dict[str, str]] = []
    for question in QUESTIONS:
        messages.append({"role": "user", "content": question})
        answer = client.generate(messages, max_tokens=80, temperature=0).choices[0].text
        messages.append({"role": "assistant", "content": answer})
        print(f"> {question}\n{answer}")

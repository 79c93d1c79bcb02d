"""`make up TLS=true`: the gateways speak TLS, and what is printed says how to call them."""

import re
import shlex
from pathlib import Path

from tests.support import local_stack
from tests.support.local_stack import run
from tokenrelay.client import Client


async def test_the_printed_command_calls_a_stack_with_tls(tmp_path: Path, edge: str) -> None:
    stack = local_stack.new(tmp_path / "state", ENGINE="simulated", TLS="true", EDGE=edge)
    made = stack.command("up")
    try:
        assert made.returncode == 0, made.stdout + made.stderr
        assert "Made a certificate authority" in made.stdout
        plain = {name: value for name, value in stack.environment.items() if name != "TOKENRELAY_TLS"}
        shown = local_stack.LocalStack(stack.settings, plain).command("status")
        assert "simulated-demo" in shown.stdout
        for said in (made.stdout, shown.stdout):
            found = re.search(r"^The gateways speak TLS: tokenrelay (.*)$", said, re.MULTILINE)
            assert found is not None
            command = (str(local_stack.ROOT / ".venv/bin/tokenrelay"), *shlex.split(found[1]))
            status, out, err = await run(*command)
            assert status == 0, err
            assert "simulated-demo" in out
        with Client(stack.targets[0], tls=stack.settings.tls_files.authority) as client:
            assert client.generate("hello", max_tokens=3).choices[0].text
    finally:
        stack.command("down")

"""An engine service that is told to end does so in good order, and says so by its status."""

import asyncio
import os
import signal
import sys

from deploy.local.settings import ROOT

PATIENCE = 60.0  # seconds; it is there in two


async def test_an_engine_service_that_drains_ends_with_status_0() -> None:
    variables = {"TOKENRELAY_ENGINE": "simulated", "TOKENRELAY_PORT": "0", "TOKENRELAY_METRICS_PORT": "0"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOKENRELAY_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "engine_service",
        cwd=ROOT,
        env={**kept, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    said = b""
    try:
        async with asyncio.timeout(PATIENCE):
            while b"ready" not in said:
                line = await process.stdout.readline()
                assert line, said.decode()
                said += line
            process.send_signal(signal.SIGTERM)
            said += await process.stdout.read()
            status = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert status == 0, said.decode()
    assert b"Traceback" not in said

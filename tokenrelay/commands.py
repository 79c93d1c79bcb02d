"""The console scripts. What a script needs is installed by an extra of its own, and a missing one is said in a line.

Modules are imported by name, when a script runs: this one must be importable without any extra, and the shared library
knows no service.
"""

import os
import runpy
import sys
from importlib import import_module
from typing import NoReturn


def client() -> None:
    """Runs `tokenrelay`."""
    # gRPC reads this when it is imported. It would write lines of its own beside ours, about each handshake that fails.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # noqa: TID251  # gRPC's variable, no setting of ours
    _call("tokenrelay.client.command_line", "cli")


def admin() -> None:
    """Runs `tokenrelay-admin`."""
    _call("tokenrelay.admin.command_line", "worker,cli")


def dead_letters() -> None:
    """Runs `tokenrelay-dead-letters`."""
    _call("tokenrelay.admin.dead_letters", "worker,cli")


def gateway() -> None:
    """Runs `tokenrelay-gateway`, as `python -m gateway` does."""
    _run("gateway", "gateway")


def worker() -> None:
    """Runs `tokenrelay-worker`, as `python -m broker_worker` does."""
    _run("broker_worker", "worker")


def engine() -> None:
    """Runs `tokenrelay-engine`, as `python -m engine_service` does."""
    _run("engine_service", "engine")


def _call(module: str, extra: str) -> None:
    try:
        main = import_module(module).main
    except ModuleNotFoundError as error:
        _explain(error, extra)
    main()


def _run(package: str, extra: str) -> None:
    try:
        import_module(f"{package}.app")
    except ModuleNotFoundError as error:
        _explain(error, extra)
    runpy.run_module(package, run_name="__main__", alter_sys=True)


def _explain(error: ModuleNotFoundError, extra: str) -> NoReturn:
    """Ends the process with what to install; a module of our own that is missing is a defect and raised as such."""
    missing = (error.name or "").partition(".")[0]
    if missing in ("", "tokenrelay", "gateway", "broker_worker", "engine_service"):
        raise error
    sys.exit(f"{missing} is not installed; this command needs: pip install 'tokenrelay[{extra}]'")

"""Starts, shows and stops the stack: `python -m deploy.local up|down|status|logs|demo`."""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from deploy.local import certificates, own_folder, plan, readiness, redis_check
from deploy.local.machine import Machine
from deploy.local.own_folder import ForeignFolderError
from deploy.local.plan import NoRedisError
from deploy.local.readiness import NotReadyError
from deploy.local.redis_check import RedisNotUsableError
from deploy.local.settings import PREFIX, ROOT, CommandSettings, StackSettings
from deploy.local.supervision import SupervisionError, Supervisor
from tokenrelay.client.client import Client
from tokenrelay.client.command_line import display
from tokenrelay.client.resumption import RetryPolicy
from tokenrelay.errors import TokenrelayError

LOG_LINES = 100
DEMO_PROMPT = "Tell me a story about a lighthouse."
ENDINGS = (signal.SIGTERM, signal.SIGHUP)  # a time limit's, and a closed terminal's

console = Console(highlight=False, soft_wrap=True)


def up(settings: StackSettings) -> int:
    """Starts the stack and returns when it serves.

    Raises:
        NoRedisError: there is no Redis to start.
        RedisNotUsableError: Redis does not answer, or cannot be used.
        NotReadyError: a port is in use.
        SupervisionError: supervisord cannot be started, or somebody has stopped it meanwhile.
    """
    supervisor = Supervisor(settings.state)
    if supervisor.is_running():
        console.print("The stack is running already; `make status` shows it, `make down` stops it.")
        return 1
    machine = Machine.this()
    processes = plan.processes(settings, machine)
    readiness.check_ports(processes)
    if settings.redis_url is not None:
        redis_check.wait_until_it_answers(settings.redis_url, settings.redis_seconds, console.print)
    elif machine.redis is not None:
        redis_check.check_data(machine.redis, settings.state / "redis")
    if settings.tls:
        for line in certificates.provide(settings.tls_files):
            console.print(line, markup=False)
    console.print(f"Starting {', '.join(process.name for process in processes)}; logs are in {supervisor.log_file('*')}")
    started = time.monotonic()
    try:
        supervisor.start(processes)
        model = readiness.wait(settings, supervisor, console.print, settings.start_seconds)
    except (NotReadyError, KeyboardInterrupt) as error:
        supervisor.stop()
        if isinstance(error, KeyboardInterrupt):
            raise
        console.print(str(error), style="red", markup=False)
        return 1
    simulated = " (simulated: computes no model)" if model.engine == "simulated" else ""
    console.print(
        f"Ready after {time.monotonic() - started:.1f} s: {model.name}{simulated} at {plan.gateway_targets(settings)}"
    )
    _show_tls(settings)
    return 0


def down(settings: StackSettings) -> int:
    """Stops the stack; open streams may end first."""
    supervisor = Supervisor(settings.state)
    if supervisor.pid() is None:
        console.print("The stack is not running.")
        return 0
    supervisor.stop()
    console.print("Stopped.")
    return 0


def status(settings: StackSettings) -> int:
    """Shows the processes and what they serve."""
    supervisor = Supervisor(settings.state)
    if not supervisor.is_running():
        console.print("The stack is not running.")
        return 1
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("process", "state", "pid", "for", "log"):
        table.add_column(heading)
    for one in supervisor.statuses():
        log = supervisor.log_file(one.name)
        table.add_row(one.name, one.state, str(one.pid or ""), f"{one.since_seconds} s" if one.pid else "", str(log))
    console.print(table)
    # What the running stack was started with counts, not what this command was told.
    settings = settings.model_copy(update={"tls": plan.CERTIFICATE_VARIABLE in supervisor.environment("gateway-1")})
    _show_tls(settings)
    targets, tls = plan.gateway_targets(settings), plan.client_tls(settings)
    try:
        with Client(targets, timeout=5, retry=RetryPolicy(give_up_after=1), tls=tls) as client:
            display.show_models(console, client.models())
    except TokenrelayError as error:
        console.print(error.message, style="red", markup=False)
    return 0


def _show_tls(settings: StackSettings) -> None:
    """Says how to call gateways that speak TLS."""
    if settings.tls:
        target = f"127.0.0.1:{settings.port}"
        command = f"tokenrelay --target {target} --tls-ca {settings.tls_files.authority} models"
        console.print(f"The gateways speak TLS: {command}", markup=False)


def logs(settings: StackSettings) -> int:
    """Shows the last log lines; goes on with FOLLOW=1."""
    follow = ["-F"] if settings.follow else []
    files = sorted(str(path) for path in (settings.state / "logs").glob("*.log"))
    if not files:
        console.print("There are no logs.")
        return 1
    return subprocess.run(["tail", "-n", str(LOG_LINES), *follow, *files], check=False).returncode


def demo(settings: StackSettings) -> int:
    """Starts a stack of its own, streams one answer, shows where the time went, and stops."""
    settings = settings.model_copy(update={"state": settings.state / "demo"})
    if own_folder.is_ours(settings.state):
        Supervisor(settings.state).stop()  # what a demo that was killed has left
    own_folder.make_anew(settings.state)
    settings = settings.model_copy(update={"port": readiness.free_port(settings, Machine.this())})
    try:
        if up(settings) != 0:
            return 1
        tls = ["--tls-ca", str(settings.tls_files.authority)] if settings.tls else ["--no-tls"]
        shown = f" --tls-ca {settings.tls_files.authority}" if settings.tls else ""
        console.print(f"\n$ tokenrelay{shown} stream --temperature 0 --timings --trace {DEMO_PROMPT!r}\n")
        command = [sys.executable, "-m", "tokenrelay.client.command_line"]
        command += ["--target", plan.gateway_targets(settings), *tls, "stream"]
        environment = {
            **os.environ,  # noqa: TID251  # passed on as it is
            **plan.tracing_environment(settings),
            "TOKENRELAY_TRACES_URL": plan.traces_url(settings),
        }
        options = ["--temperature", "0", "--max-tokens", "200", "--timings", "--trace"]
        return subprocess.run([*command, *options, DEMO_PROMPT], env=environment, cwd=ROOT, check=False).returncode
    finally:
        down(settings)


COMMANDS: dict[str, Callable[[StackSettings], int]] = {"up": up, "down": down, "status": status, "logs": logs, "demo": demo}


def main() -> int:
    """Runs one command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=COMMANDS)
    command = COMMANDS[parser.parse_args().command]
    for number in ENDINGS:
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup has SIGHUP ignored
            signal.signal(number, _interrupt)
    try:
        return command(CommandSettings())
    except ValidationError as error:
        for problem in error.errors():
            name, text = str(problem["loc"][0]).upper(), problem["msg"].removeprefix("Value error, ")
            console.print(f"{PREFIX}{name}: {text}", style="red", markup=False)
        return 2
    except (NotReadyError, NoRedisError, RedisNotUsableError, ForeignFolderError, SupervisionError) as error:
        console.print(str(error), style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 130


def _interrupt(*_: object) -> None:
    """Ends a command as Ctrl-C does, so that it stops what it has started."""
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)  # a closed terminal sends more than one; they are not to end the stopping
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

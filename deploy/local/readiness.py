"""Waits until a stack serves, and shows what it waits for."""

import socket
import time
from collections.abc import Callable, Sequence

from deploy.local import plan
from deploy.local.machine import Machine
from deploy.local.plan import Process, gateway_targets
from deploy.local.settings import HIGHEST_PORT, StackSettings
from deploy.local.supervision import Supervisor
from tokenrelay.client.client import Client
from tokenrelay.client.resumption import RetryPolicy
from tokenrelay.errors import TokenrelayError
from tokenrelay.v1 import model_service_pb2

INTERVAL = 0.25  # seconds between looks
REPORT_INTERVAL = 5.0  # seconds between lines while nothing changes
LOWEST_PORT, PORT_STEP = 20_050, 1000  # where a search for free ports begins anew, and how far it goes each time
RESTARTS_ALLOWED = 1  # before a process that keeps ending counts as broken

Report = Callable[[str], None]


class NotReadyError(Exception):
    """The stack does not come up. Its text is for the user."""


def check_ports(processes: Sequence[Process]) -> None:
    """Raises NotReadyError if anything listens already where the stack is to listen."""
    for process in processes:
        for port in process.ports:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    raise NotReadyError(f"{process.name}: port {port} is in use; choose another with PORT=") from None


def free_port(settings: StackSettings, machine: Machine) -> int:
    """Returns the first gateway port from which on a stack finds all its ports free: the wanted one, if it can be had.

    Raises:
        NotReadyError: no port will do.
    """
    candidates: tuple[int, ...] = (
        *range(settings.port, HIGHEST_PORT, PORT_STEP),
        *range(LOWEST_PORT, settings.port, PORT_STEP),
    )
    for port in candidates:
        try:
            check_ports(plan.processes(settings.model_copy(update={"port": port}), machine))
        except NotReadyError:
            continue
        return port
    raise NotReadyError(f"ports are in use from {settings.port} on and from {LOWEST_PORT} on, in steps of {PORT_STEP}")


def wait(settings: StackSettings, supervisor: Supervisor, report: Report, patience: float) -> model_service_pb2.Model:
    """Returns what is served as soon as every worker serves it and each gateway has relayed a token of it.

    Raises:
        NotReadyError: a process keeps ending, or it takes too long.
    """
    started, reported = time.monotonic(), ""
    last_report = started
    while True:
        waits_for, model = _look(settings)
        now = time.monotonic()
        if model is not None:
            return model
        if waits_for != reported or now - last_report > REPORT_INTERVAL:
            report(f"{now - started:5.1f} s  {waits_for}")
            reported, last_report = waits_for, now
        _check_processes(supervisor)
        if now - started > patience:
            raise NotReadyError(f"not ready after {patience:g} s: {waits_for}; START_SECONDS= gives it longer")
        time.sleep(INTERVAL)


def _look(settings: StackSettings) -> tuple[str, model_service_pb2.Model | None]:
    """Returns what is still waited for, and the model once nothing is."""
    model = None
    for target in gateway_targets(settings).split(","):
        with Client(target, timeout=10, retry=RetryPolicy(give_up_after=0), tls=plan.client_tls(settings)) as client:
            try:
                # A model that an earlier stack served is listed without workers for a while.
                model = next((one for one in client.models() if one.workers > 0), None)
                if model is None:
                    return "the engine loads the model", None
                if model.workers < settings.workers:
                    return f"{model.workers} of {settings.workers} workers serve", None
                client.generate([1], model=model.name, max_tokens=1, temperature=0)
            except TokenrelayError as error:
                # Without what gRPC adds in brackets of each address that it tried: a gateway that starts is no failure yet.
                return f"{target}: {error.message.partition(' (')[0]}", None
    return "", model


def _check_processes(supervisor: Supervisor) -> None:
    for status in supervisor.statuses():
        log = supervisor.log_file(status.name)
        if restarts(supervisor, status.name) > RESTARTS_ALLOWED:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:]) if log.exists() else ""
            raise NotReadyError(f"{status.name} keeps ending; the end of {log}:\n{tail}")


def restarts(supervisor: Supervisor, name: str) -> int:
    """Returns how often a process has ended since the stack's start: supervisord restarts it each time, and logs it."""
    log = supervisor.log_file("supervisord")
    _, _, since_start = (log.read_text() if log.exists() else "").rpartition("supervisord started with pid")
    return since_start.count(f"exited: {name} ")

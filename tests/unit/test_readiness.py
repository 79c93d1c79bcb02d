"""When `make up` counts a stack as ready, and when it gives up on a process."""

from pathlib import Path
from typing import Any
from xmlrpc.client import Fault

import pytest

from deploy.local import readiness
from deploy.local.settings import StackSettings
from deploy.local.supervision import SupervisionError, Supervisor
from tokenrelay.v1.model_service_pb2 import Model


def test_ends_of_earlier_stacks_do_not_count(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path)
    log = supervisor.log_file("supervisord")
    assert readiness.restarts(supervisor, "gateway-1") == 0
    log.parent.mkdir()
    started, ended = "INFO supervisord started with pid 7\n", "WARN exited: gateway-1 (terminated by SIGKILL; not expected)\n"
    log.write_text(started + 3 * ended)
    assert readiness.restarts(supervisor, "gateway-1") == 3
    log.write_text(started + 3 * ended + started + ended)
    assert readiness.restarts(supervisor, "gateway-1") == 1
    assert readiness.restarts(supervisor, "gateway-2") == 0


@pytest.mark.parametrize("answer", [FileNotFoundError(), Fault(6, "SHUTDOWN_STATE")])
def test_a_stack_that_somebody_stops_while_it_starts_is_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Exception
) -> None:
    supervisor = Supervisor(tmp_path)

    def calls() -> Any:
        raise answer

    monkeypatch.setattr(supervisor, "_calls", calls)
    monkeypatch.setattr(readiness, "_look", lambda _: ("the engine loads the model", None))
    with pytest.raises(SupervisionError, match="the stack is being stopped, or was stopped already"):
        readiness.wait(StackSettings(), supervisor, lambda _: None, patience=60)


@pytest.mark.parametrize(
    ("models", "waits_for", "found"),
    [
        ([Model(name="old"), Model(name="new", workers=1)], "", "new"),
        ([Model(name="old")], "the engine loads the model", None),
        ([], "the engine loads the model", None),
    ],
)
def test_a_model_that_an_earlier_stack_served_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, models: list[Model], waits_for: str, found: str | None
) -> None:
    asked: list[str] = []

    class Answering:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def __enter__(self) -> "Answering":
            return self

        def __exit__(self, *_: object) -> None: ...

        def models(self) -> list[Model]:
            return models

        def generate(self, *_: Any, model: str = "", **__: Any) -> None:
            asked.append(model)

    monkeypatch.setattr(readiness, "Client", Answering)
    told, model = readiness._look(StackSettings())
    assert (told, model and model.name) == (waits_for, found)
    assert asked == ([found] if found else []), "with several models listed, an empty name would be ambiguous"

"""Log lines: their form, and what must never be in them."""

import json
import logging
from collections.abc import Iterator
from contextvars import Context

import pytest
import structlog

from tokenrelay import logs
from tokenrelay.identity.api_keys import ApiKey, KeyKind
from tokenrelay.settings import ProcessSettings


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    root.setLevel(level)


def fail_over(prompt: str) -> None:
    secret = prompt * 2
    raise ValueError(len(secret))


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_traceback_shows_no_local_variables(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("gateway", ProcessSettings(log_format=form))
    prompt = "my secret " + "prompt"
    try:
        fail_over(prompt)
    except ValueError:
        structlog.get_logger().exception("failed", generation_id="0-1")
    told = capsys.readouterr().err
    assert "ValueError" in told
    assert "fail_over" in told
    assert "0-1" in told
    assert "secret prompt" not in told


def test_json_lines_name_process_level_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("worker", ProcessSettings(log_format="json"))
    structlog.get_logger().info("ready", port=1)
    logging.getLogger("some.library").warning("careful: %s", "hot")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {"process": "worker", "level": "info", "event": "ready", "port": 1}.items() <= lines[0].items()
    assert lines[0]["timestamp"].endswith("Z")
    assert {"process": "worker", "level": "warning", "event": "careful: hot"}.items() <= lines[1].items()


def test_lines_of_tasks_that_are_nobody_s_children_name_the_process_too(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("worker", ProcessSettings(log_format="json"))
    Context().run(structlog.get_logger().info, "serves")
    assert json.loads(capsys.readouterr().err)["process"] == "worker"


def test_less_important_lines_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("worker", ProcessSettings(log_format="json", log_level="warning"))
    structlog.get_logger().info("chatter")
    structlog.get_logger().warning("trouble")
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == ["trouble"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_line_has_a_key(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("gateway", ProcessSettings(log_format=form))
    key = ApiKey.new(KeyKind.CALLS)
    log = structlog.get_logger()
    log.info("called", authorization=f"Bearer {key.reveal()}", headers=[("authorization", key.reveal())])
    log.warning(f"odd {key.reveal()}", other="Basic dXNlcjpwYXNzd29yZA==")
    logging.getLogger("some.library").warning("sent %s", key.reveal())
    try:
        int(key.reveal())  # whose error repeats what it was given
    except ValueError:
        log.exception("failed", tried=key.reveal())
    told = capsys.readouterr().err
    assert key.reveal()[16:] not in told
    assert "dXNlcjpwYXNzd29yZA==" not in told
    assert told.count(f"trk_{key.key_id}…") >= 5

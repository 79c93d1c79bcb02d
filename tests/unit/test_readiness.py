"""When `make up` gives up on a process."""

from pathlib import Path

from deploy.local import readiness
from deploy.local.supervision import Supervisor


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

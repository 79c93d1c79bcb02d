"""The drills, one a file: each builds its stack, breaks it in its own way under load, and judges what only it can see."""

import inspect
from types import ModuleType

from drills.scenario import Scenario
from drills.scenarios import (
    churn,
    clocks,
    data_loss,
    failover,
    failpoints,
    hostile,
    kills,
    link_down,
    memory,
    mixed,
    network,
    pauses,
    poison,
    redis_restarts,
    rolling_restart,
    rolling_upgrade,
    slow_disk,
    slow_readers,
    takeover,
    vllm_kills,
)

MODULES: tuple[ModuleType, ...] = (
    mixed,
    kills,
    failpoints,
    takeover,
    pauses,
    redis_restarts,
    failover,
    rolling_restart,
    rolling_upgrade,
    slow_disk,
    memory,
    data_loss,
    network,
    link_down,
    clocks,
    poison,
    slow_readers,
    hostile,
    churn,
    vllm_kills,
)

SCENARIOS: dict[str, tuple[Scenario, str]] = {
    module.__name__.rpartition(".")[2]: (module.run, (inspect.getdoc(module) or "").partition("\n")[0]) for module in MODULES
}
"""Each drill by its name, with its own sentence on what it does, in the order in which all are run."""

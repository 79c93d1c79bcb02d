"""The drills, one a file: each builds its stack, breaks it in its own way under load, and judges what only it can see."""

import inspect
from types import ModuleType

from tests.drill.scenario import Scenario
from tests.drill.scenarios import (
    data_loss,
    kills,
    memory,
    mixed,
    pauses,
    redis_restarts,
    rolling_restart,
    takeover,
    vllm_kills,
)

MODULES: tuple[ModuleType, ...] = (
    mixed,
    kills,
    takeover,
    pauses,
    redis_restarts,
    rolling_restart,
    memory,
    data_loss,
    vllm_kills,
)

SCENARIOS: dict[str, tuple[Scenario, str]] = {
    module.__name__.rpartition(".")[2]: (module.run, (inspect.getdoc(module) or "").partition("\n")[0]) for module in MODULES
}
"""Each drill by its name, with its own sentence on what it does, in the order in which all are run."""

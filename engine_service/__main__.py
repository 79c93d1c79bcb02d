"""Runs an engine service: `python -m engine_service`."""

import sys

from engine_service.app import EngineApplication
from engine_service.settings import EngineSettings
from tokenrelay import lifecycle, logs, settings

if __name__ == "__main__":
    configuration = settings.load(EngineSettings)
    logs.set_up("engine", configuration)
    sys.exit(lifecycle.serve(EngineApplication(configuration)))

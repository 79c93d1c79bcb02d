"""Runs a broker worker: `python -m broker_worker`."""

import sys

from broker_worker.app import WorkerApplication
from broker_worker.settings import WorkerSettings
from tokenrelay import lifecycle, logs, settings

if __name__ == "__main__":
    configuration = settings.load(WorkerSettings)
    logs.set_up("worker", configuration)
    sys.exit(lifecycle.serve(WorkerApplication(configuration)))

"""Runs a gateway: `python -m gateway`."""

import sys

from gateway.edge import choice
from gateway.settings import GatewaySettings
from tokenrelay import lifecycle, logs, settings

if __name__ == "__main__":
    configuration = settings.load(GatewaySettings)
    logs.set_up("gateway", configuration)
    sys.exit(lifecycle.serve(choice.choose(configuration)))

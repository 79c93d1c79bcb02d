"""Runs a gateway: `python -m gateway`."""

import sys

from gateway.edge import choice
from gateway.settings import GatewaySettings
from tokenrelay import lifecycle, logs, settings
from tokenrelay.start_up import SettingError

if __name__ == "__main__":
    configuration = settings.load(GatewaySettings)
    logs.set_up("gateway", configuration)
    try:
        application = choice.choose(configuration)
    except SettingError as error:
        print(error, file=sys.stderr)  # noqa: T201
        sys.exit(error.status)
    sys.exit(lifecycle.serve(application))

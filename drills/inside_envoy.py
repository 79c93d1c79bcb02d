"""What Envoy loads in a drill with failpoints: the gateway's own application, once its points are watched."""

import os
from pathlib import Path

from drills import failpoints

# The process that a supervisor knows of, and that ends with Envoy, is Envoy's parent.
failpoints.install(failpoints.GATEWAY, Path(os.environ[failpoints.FOLDER_VARIABLE]), known_as=os.getppid())

from gateway.edge.inside import app  # noqa: E402  # its modules must find the points wrapped

__all__ = ["app"]

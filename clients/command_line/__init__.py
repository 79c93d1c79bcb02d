"""The command line: `tokenrelay --help`. Needs the extra `cli`; the library does not import it."""

from tokenrelay.client.command_line.app import main

__all__ = ["main"]

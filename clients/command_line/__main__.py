"""Runs the command line: `python -m tokenrelay.client.command_line`."""

from tokenrelay.client.command_line.app import main

main()

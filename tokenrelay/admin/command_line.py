"""The operators' command: `tokenrelay-admin --help`, or `python -m tokenrelay.admin.command_line`."""

from typing import Any

from tokenrelay.admin import console, keys, tenants

app = console.application("Administers tenants and their API keys.")
app.add_typer(tenants.app, name="tenants")
app.add_typer(keys.app, name="keys")


def main() -> Any:
    """Runs the command."""
    return app(prog_name="tokenrelay-admin")


if __name__ == "__main__":
    main()

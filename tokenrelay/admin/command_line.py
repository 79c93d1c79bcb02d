"""The operators' command: `tokenrelay-admin --help`, or `python -m tokenrelay.admin.command_line`."""

from typing import Any

from tokenrelay.admin import audit, console, keys, redis_acl, tenants, usage

app = console.application("Administers tenants and their API keys, and shows what they have used.")
app.add_typer(tenants.app, name="tenants")
app.add_typer(keys.app, name="keys")
app.command()(usage.usage)
app.command()(audit.audit)
app.command("redis-acl")(redis_acl.redis_acl)


def main() -> Any:
    """Runs the command."""
    return app(prog_name="tokenrelay-admin")


if __name__ == "__main__":
    main()

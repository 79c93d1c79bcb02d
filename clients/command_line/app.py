"""The commands together, and what the options before a command say."""

import io
import sys
from typing import Annotated, Any

import typer
from opentelemetry import trace

from tokenrelay import settings, telemetry
from tokenrelay.client.command_line import generating, lookups
from tokenrelay.client.command_line.session import EXPORT_SECONDS, Session, within
from tokenrelay.client.command_line.settings import CommandLineSettings
from tokenrelay.client.connections import parse_targets
from tokenrelay.start_up import SettingError

# Without Rich, since its markup would change what an error repeats of the command line; without local variables in a
# traceback, since these hold prompts.
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Calls a Tokenrelay gateway.",
)
for command in (
    generating.generate,
    generating.stream,
    generating.submit,
    generating.attach,
    lookups.get,
    lookups.cancel,
    generating.chat,
    lookups.models,
    lookups.trace,
):
    app.command()(command)


@app.callback()
def start(
    context: typer.Context,
    target: Annotated[
        str | None, typer.Option(help="gateways, host:port, separated by commas; else TOKENRELAY_TARGETS")
    ] = None,
) -> None:
    """Calls a Tokenrelay gateway."""
    configuration = settings.load(CommandLineSettings)
    if target is not None:
        try:
            parse_targets(target)
        except ValueError as error:
            raise typer.BadParameter(str(error).removeprefix("targets: "), param_hint="--target") from error
    context.obj = Session(configuration, target or configuration.targets)
    try:
        exported = telemetry.set_up("tokenrelay-client", "command-line", configuration)
    except SettingError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(SettingError.status) from error
    if exported.provider is not None:
        trace.set_tracer_provider(exported.provider)
        context.call_on_close(lambda: within(EXPORT_SECONDS, exported.shut_down))


def main() -> Any:
    """Runs the command line."""
    # Bytes that are no text must reach the request's own check, which names the field, and an answer must reach a
    # terminal of whatever encoding.
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return app(prog_name="tokenrelay")

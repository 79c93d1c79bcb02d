"""The commands together, and what the options before a command say."""

import io
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from opentelemetry import trace
from pydantic import SecretStr

from tokenrelay import settings, telemetry
from tokenrelay.client.command_line import generating, lookups
from tokenrelay.client.command_line.session import EXPORT_SECONDS, Session, within
from tokenrelay.client.command_line.settings import CommandLineSettings
from tokenrelay.client.connections import check_metadata, parse_targets
from tokenrelay.client.tls import Tls, secure
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
    use_tls: Annotated[
        bool | None, typer.Option("--tls/--no-tls", help="speak TLS; naming a file does so too; else TOKENRELAY_TLS")
    ] = None,
    tls_ca: Annotated[
        str | None, typer.Option(metavar="FILE", help="the authorities to trust, else TOKENRELAY_TLS_CA or public ones")
    ] = None,
    tls_certificate: Annotated[
        str | None, typer.Option(metavar="FILE", help="certificate to show, else TOKENRELAY_TLS_CLIENT_CERTIFICATE")
    ] = None,
    tls_key: Annotated[str | None, typer.Option(metavar="FILE", help="its private key, else TOKENRELAY_TLS_CLIENT_KEY")] = None,
    api_key_file: Annotated[
        str | None, typer.Option(metavar="FILE", help="file with the API key to show, else TOKENRELAY_API_KEY")
    ] = None,
) -> None:
    """Calls a Tokenrelay gateway."""
    configuration = settings.load(CommandLineSettings)
    if target is not None:
        try:
            parse_targets(target)
        except ValueError as error:
            raise typer.BadParameter(str(error).removeprefix("targets: "), param_hint="--target") from error
    tls = _tls(configuration, use_tls, Tls(ca=tls_ca, certificate=tls_certificate, key=tls_key))
    context.obj = Session(configuration, target or configuration.targets, tls, _api_key(configuration, api_key_file))
    try:
        provider = telemetry.provider("tokenrelay-client", "command-line", configuration)
    except SettingError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(SettingError.status) from error
    if provider is not None:
        trace.set_tracer_provider(provider)
        context.call_on_close(lambda: within(EXPORT_SECONDS, provider.shutdown))


def _api_key(configuration: CommandLineSettings, file: str | None) -> SecretStr | None:
    """Returns the key of a file, or else of the environment. On the command line everybody's list of processes would have it.

    Raises:
        typer.BadParameter: the file cannot be read.
    """
    if file is None:
        key = configuration.api_key
    else:
        try:
            key = SecretStr(Path(file).read_text().strip())
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise typer.BadParameter(f"cannot be read: {reason}", param_hint="--api-key-file") from None
    try:
        check_metadata(None, key.get_secret_value() if key is not None else None)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return key


def _tls(configuration: CommandLineSettings, wanted: bool | None, given: Tls) -> Tls | None:
    """Returns what the options, and for those that are missing the environment, say of TLS; None: there is to be none.

    Raises:
        typer.BadParameter: a file cannot be used.
    """
    tls = Tls(
        ca=given.ca or configuration.tls_ca,
        certificate=given.certificate or configuration.tls_client_certificate,
        key=given.key or configuration.tls_client_key,
        server_name=configuration.tls_server_name,
    )
    if wanted is None:
        wanted = configuration.tls or tls != Tls()
    if not wanted:
        return None
    try:
        secure(tls, None)
    except ValueError as error:
        raise typer.BadParameter(str(error).removeprefix("tls: "), param_hint="--tls") from error
    return tls


def main() -> Any:
    """Runs the command line."""
    # Bytes that are no text must reach the request's own check, which names the field, and an answer must reach a
    # terminal of whatever encoding.
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    return app(prog_name="tokenrelay")

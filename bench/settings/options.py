"""Makes a command's options of a settings class, so that there is one list of both."""

import inspect
from collections.abc import Callable
from typing import TypeVar

import typer
from pydantic import ValidationError
from pydantic_settings import BaseSettings

Settings = TypeVar("Settings", bound=BaseSettings)


def of_settings(kind: type[Settings], run: Callable[[Settings], int]) -> Callable[..., None]:
    """Returns a command for typer: an option for each field, which is stronger than the field's variable.

    Args:
        kind: the settings; a field's option has its name, and its variable too, after the prefix.
        run: what the command does; returns the exit status.
    """

    def command(**given: str | None) -> None:
        raise typer.Exit(run(read(kind, given)))

    command.__doc__ = run.__doc__
    command.__signature__ = inspect.Signature([_parameter(kind, name) for name in kind.model_fields])  # type: ignore[attr-defined]
    command.__annotations__ = dict.fromkeys(kind.model_fields, str | None)
    return command


def read(kind: type[Settings], given: dict[str, str | None]) -> Settings:
    """Reads the variables, and what is given over them; names the variable of what is wrong, and exits with status 2."""
    try:
        return kind(**{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        prefix = kind.model_config.get("env_prefix", "")
        for problem in error.errors():
            typer.echo(f"{prefix}{str(problem['loc'][0]).upper()}: {problem['msg']}", err=True)
        raise typer.Exit(2) from None


def _parameter(kind: type[BaseSettings], name: str) -> inspect.Parameter:
    field = kind.model_fields[name]
    default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else field.default
    described = f"{field.description} [{name.upper()}{'' if default in (None, '') else f'={default}'}]"
    option = typer.Option(None, f"--{name.replace('_', '-')}", help=described, show_default=False)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=str | None)

"""Settings on the command line, and how a command ends that cannot do its work: with a line for each complaint."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin

import click
from pydantic import SecretStr

from hub import config, logs
from hub.config import Settings
from hub.errors import HubError, StartError

Command = TypeVar("Command", bound=Callable[..., Any])

CANNOT_START = 2


def setting_options(*names: str) -> Callable[[Command], Command]:
    """A flag for each of these settings, or for all: --data-dir for data_dir. What is not said stays unset."""

    def decorate(command: Command) -> Command:
        for name in reversed(names or tuple(Settings.model_fields)):
            field = Settings.model_fields[name]
            flag = "--" + name.replace("_", "-")
            default = f"{field.default}; " if field.default not in (None, False) else ""
            text = f"{field.description} [{default}${variable(name)}]"
            if field.annotation is bool:
                command = click.option(flag, name, flag_value=True, default=None, help=text)(command)
            elif name not in SECRETS:
                command = click.option(flag, name, metavar=metavar(name), help=text)(command)
        return click.option("--config", "config_file", metavar="FILE", help="TOML file of settings [$HUB_CONFIG]")(
            command
        )

    return decorate


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return config.ENV_PREFIX + name.upper()


SECRETS = [name for name, field in Settings.model_fields.items() if SecretStr in get_args(field.annotation)]
"""They have no flag: it would show them to everyone who lists processes."""

EPILOG = f"Secrets have variables and no flags, which others could see: {', '.join(map(variable, SECRETS))}."


def metavar(name: str) -> str:
    """What the help says that a flag takes: its unit, its choices, or its kind."""
    kind = Settings.model_fields[name].annotation
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    if name == "listen":
        return "HOST:PORT"
    if name == "data_dir":
        return "DIRECTORY"
    if config.Where in get_args(kind):
        return "FILE"
    return config.unit_of(name).upper() or ("NUMBER" if kind is int else "TEXT")


def settle(config_file: str | None, flags: dict[str, Any]) -> Settings:
    """The settings in force; ends the program where they are wrong."""
    try:
        settings = config.load(flags, Path(config_file) if config_file else None)
    except StartError as error:
        give_up(str(error))
    logs.configure(settings.log_level, settings.log_format)
    return settings


def run(work: Any) -> None:  # noqa: ANN401  any coroutine
    """Run a command to its end; a start that fails ends the program with one line."""
    try:
        asyncio.run(work)
    except StartError as error:
        give_up(str(error))
    except HubError as error:
        give_up(error.message)


def give_up(text: str, status: int = CANNOT_START) -> NoReturn:
    """End with a line for each complaint, and a status."""
    for line in text.splitlines():
        click.echo(f"hub: {line}", err=True)
    sys.exit(status)

"""Settings on the command line, and how a command fails: with a line for each problem."""

import asyncio
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin

import click

from hub import config, logs
from hub.cli.completion import complete_values
from hub.config import SECRETS, Settings
from hub.environment import variable
from hub.errors import HubError, StartError

Command = TypeVar("Command", bound=Callable[..., Any])

CANNOT_START = 2


def setting_options(*names: str) -> Callable[[Command], Command]:
    """A flag for each of these settings, or for all: --data-dir for data_dir. A flag that is not given stays unset."""

    def decorate(command: Command) -> Command:
        for name in reversed(names or tuple(Settings.model_fields)):
            field = Settings.model_fields[name]
            flag = "--" + name.replace("_", "-")
            default = f"{field.default}; " if field.default not in (None, False, "") else ""
            text = f"{field.description} [{default}${variable(name)}]"
            if field.annotation is bool:
                command = click.option(flag, name, flag_value=True, default=None, help=text)(command)
            elif name not in SECRETS:
                placeholder = metavar(name)
                command = click.option(
                    flag, name, metavar=placeholder, help=text, shell_complete=complete_values(placeholder)
                )(command)
        text = "TOML file of settings [$HUB_CONFIG]"
        return click.option(
            "--config", "config_file", metavar="FILE", help=text, shell_complete=complete_values("FILE")
        )(command)

    return decorate


def erasures_option(command: Command) -> Command:
    """The flag that names a list of erasures, for a store that is made from a backup or an export."""
    text = "the newest copy of the list of erasures: the file 'erasures' of the old data directory, or erasures_file"
    return click.option("--erasures", type=click.Path(path_type=Path), help=text)(command)


EPILOG = (
    "Secrets have no flags, because other users can see those. Set a variable "
    f"({', '.join(map(variable, SECRETS))}), or name a file that only its owner can read, with a flag such as "
    "--secret-file."
)


def metavar(name: str) -> str:
    """The placeholder of a flag's value in the help: its unit, its choices, or its type."""
    kind = Settings.model_fields[name].annotation
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    if name in ("listen", "http_listen", "directory_listen"):
        return "HOST:PORT"
    if name == "data_dir":
        return "DIRECTORY"
    if config.Where in get_args(kind):
        return "FILE"
    return config.unit_of(name).upper() or ("NUMBER" if kind is int else "TEXT")


def load_settings(config_file: str | None, flags: dict[str, Any], unused: Collection[str] = frozenset()) -> Settings:
    """The settings in force but those that the command does without; ends the program if they are invalid."""
    try:
        settings = read_settings(config_file, flags, unused)
    except StartError as error:
        give_up(str(error))
    logs.configure(settings.log_level, settings.log_format)
    return settings


def read_settings(config_file: str | None, flags: dict[str, Any], unused: Collection[str] = frozenset()) -> Settings:
    """The settings in force; those that are unused keep their defaults.

    Raises:
        StartError: they are invalid.
    """
    return config.load(flags, Path(config_file) if config_file else None, unused)


def run(work: Any) -> None:  # noqa: ANN401  any coroutine
    """Run a command to its end; a start that fails ends the program with one line."""
    try:
        asyncio.run(work)
    except StartError as error:
        give_up(str(error))
    except HubError as error:
        give_up(error.message)


def give_up(text: str, status: int = CANNOT_START) -> NoReturn:
    """End the program with a line for each problem, and a status."""
    for line in text.splitlines():
        click.echo(f"hub: {line}", err=True)
    sys.exit(status)

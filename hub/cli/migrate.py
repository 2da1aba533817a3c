"""``hub export`` and ``hub import``: moving from one store to another, of any backend."""

import asyncio
from pathlib import Path

import click

from hub.archive.export import Trailer
from hub.archive.migration import export_log, import_log
from hub.cli.backup import moment, say_of_erasures
from hub.cli.options import EPILOG, erasures_option, give_up, load_settings, setting_options
from hub.cli.output import say
from hub.config import SERVING, Settings
from hub.errors import HubError, StartError

_NAMES = ("data_dir", "storage", "nats_stream", "nats_replicas")


@click.command("export", epilog=EPILOG, short_help="Write the log of a stopped hub to a file.")
@click.argument("file", type=click.Path(path_type=Path))
@setting_options(*_NAMES)
def export_command(file: Path, config_file: str | None, **flags: str | None) -> None:
    """Write the log of a stopped hub to FILE, from which 'hub import' makes a store of any backend.

    FILE must not exist. It contains the hub's secret, too, unless HUB_SECRET is set: keep it as safe as the hub.
    """
    settings = load_settings(config_file, flags, SERVING)
    try:
        header, trailer = asyncio.run(export_log(settings, file))
    except StartError as error:
        give_up(str(error))
    except HubError as error:
        give_up(error.message)
    secret = "and the hub's secret" if header.secret else "without the hub's secret: keep HUB_SECRET with it"
    say(f"{file}: {describe(trailer)}, {secret}")


@click.command("import", epilog=EPILOG, short_help="Make a store from an exported log.")
@click.argument("file", type=click.Path(path_type=Path))
@erasures_option
@setting_options(*_NAMES, "erasures_file")
def import_command(file: Path, erasures: Path | None, config_file: str | None, **flags: str | None) -> None:
    """Import the log that 'hub export' wrote to FILE into an empty store (for example --storage nats://...).

    All keys, grants, installations, audit entries, events and committed cursors are restored. A cursor that an
    integration stored itself is refused with CURSOR_EXPIRED, or answered with a gap if the integration requested that.
    """
    settings = load_settings(config_file, flags, SERVING)
    try:
        header, trailer = asyncio.run(import_log(settings, file, erasures))
    except StartError as error:
        give_up(str(error))
    say(f"{place(settings)}: {describe(trailer)}, of an export begun at {moment(header.time)}")
    say_of_erasures(settings)


def describe(trailer: Trailer) -> str:
    """A short description of an export."""
    return f"{trailer.entries} entries through {moment(trailer.last_time)}"


def place(settings: Settings) -> str:
    """A short description of where the store is."""
    return str(settings.data_dir) if settings.storage == "sqlite" else f"stream {settings.nats_stream}"

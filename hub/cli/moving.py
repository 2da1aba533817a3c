"""``hub export`` and ``hub import``: from one store to another, of whichever backend."""

import asyncio
from pathlib import Path

import click

from hub.cli.backup import moment
from hub.cli.settling import EPILOG, give_up, setting_options, settle
from hub.config import Settings
from hub.control.moving import export_log, import_log
from hub.errors import HubError, StartError
from hub.storage.export import Trailer

_NAMES = ("data_dir", "storage", "nats_stream", "nats_replicas")


@click.command("export", epilog=EPILOG, short_help="Write the log of a stopped hub into a file.")
@click.argument("file", type=click.Path(path_type=Path))
@setting_options(*_NAMES)
def export_command(file: Path, config_file: str | None, **flags: str | None) -> None:
    """Write the log of a stopped hub into FILE, from which 'hub import' makes a store of any backend.

    FILE must not exist. It holds the hub's own secret, too, unless HUB_SECRET gives it: keep it as safe as the hub.
    """
    settings = settle(config_file, flags)
    try:
        header, trailer = asyncio.run(export_log(settings, file))
    except StartError as error:
        give_up(str(error))
    except HubError as error:
        give_up(error.message)
    secret = "and the hub's secret" if header.secret else "without the hub's secret: keep HUB_SECRET with it"
    click.echo(f"{file}: {told(trailer)}, {secret}")


@click.command("import", epilog=EPILOG, short_help="Make a store of an exported log.")
@click.argument("file", type=click.Path(path_type=Path))
@setting_options(*_NAMES)
def import_command(file: Path, config_file: str | None, **flags: str | None) -> None:
    """Make an empty store, --storage nats://... for one, into the log that 'hub export' wrote into FILE.

    Everything is there again: keys, grants, installations, the audit trail, events, committed places. A cursor that an
    integration has kept itself is answered with CURSOR_EXPIRED, or with a gap where it asked for that.
    """
    settings = settle(config_file, flags)
    try:
        header, trailer = asyncio.run(import_log(settings, file))
    except StartError as error:
        give_up(str(error))
    click.echo(f"{place(settings)}: {told(trailer)}, of an export begun at {moment(header.time)}")


def told(trailer: Trailer) -> str:
    """What an export holds, in a few words."""
    return f"{trailer.entries} entries through {moment(trailer.last_time)}"


def place(settings: Settings) -> str:
    """Where the store lies, in a few words."""
    return str(settings.data_dir) if settings.storage == "sqlite" else f"stream {settings.nats_stream}"

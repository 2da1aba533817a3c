"""``hub backup`` and ``hub restore``: the embedded store as one file, and a store made from it."""

from contextlib import suppress
from pathlib import Path

import click

from hub.archive.backup import back_up, restore
from hub.cli.options import EPILOG, erasures_option, give_up, load_settings, setting_options
from hub.cli.output import say
from hub.clock import rfc3339
from hub.config import SERVING, Settings
from hub.delivery.overview import BACKUP_STAMP
from hub.errors import StartError
from hub.storage.sqlite.backup_file import Backup
from hub.storage.sqlite.data_directory import erasures_path


@click.command("backup", epilog=EPILOG, short_help="Write the embedded store to a file.")
@click.argument("file", type=click.Path(path_type=Path))
@setting_options("data_dir", "storage")
def backup_command(file: Path, config_file: str | None, **flags: str | None) -> None:
    """Write the store to FILE, which must not exist. The hub may be running.

    The file contains the hub's secret, too, unless HUB_SECRET is set: keep it as safe as the hub. For the embedded
    store only; for NATS JetStream use 'nats stream backup'.
    """
    try:
        settings = load_settings(config_file, flags, SERVING)
        made = back_up(settings, file)
    except StartError as error:
        give_up(str(error))
    with suppress(OSError):  # the backup is made; failing to note its time is harmless
        (settings.data_dir / BACKUP_STAMP).touch(0o600)
    secret = "and the hub's secret" if made.secret else "without the hub's secret: keep HUB_SECRET with it"
    say(f"{file}: {describe(made)}, {secret}")


@click.command("restore", epilog=EPILOG, short_help="Make a store from a backup.")
@click.argument("file", type=click.Path(path_type=Path))
@erasures_option
@setting_options("data_dir", "storage", "erasures_file")
def restore_command(file: Path, erasures: Path | None, config_file: str | None, **flags: str | None) -> None:
    """Make a store from a backup, in an empty or missing data directory.

    Events accepted since the backup began are lost, and every earlier cursor has expired: an integration gets
    CURSOR_EXPIRED, or a gap if it requested that. For the embedded store only; for NATS JetStream use
    'nats stream restore'.
    """
    settings = load_settings(config_file, flags, SERVING)
    try:
        restored = restore(settings, file, erasures)
    except StartError as error:
        give_up(str(error))
    say(f"{settings.data_dir}: {describe(restored)}, of a backup begun at {moment(restored.time)}")
    say_of_erasures(settings)


def say_of_erasures(settings: Settings) -> None:
    """Say whether a new store gets the erasures that were made since its content was copied."""
    path = erasures_path(settings)
    if path is not None and path.exists():
        say(f"{path}: the next start applies the erasures that it lists")
    else:
        say(
            "there is no list of erasures: before you start a hub, copy the file 'erasures' of the old data directory "
            "into the new one, or what was erased since then is here again"
        )


def describe(backup: Backup) -> str:
    """A short description of a backup."""
    through = f" through {moment(backup.last_time)}" if backup.entries else ""
    return f"{backup.entries} entries{through}"


def moment(time: int) -> str:
    """A time in microseconds as text for people."""
    return rfc3339(time // 1_000_000 * 1_000_000)

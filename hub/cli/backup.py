"""``hub backup`` and ``hub restore``: the embedded store in one file, and a store made of that."""

from datetime import UTC, datetime
from pathlib import Path

import click

from hub.cli.settling import EPILOG, give_up, setting_options, settle
from hub.errors import StartError
from hub.storage.backup import Backup, back_up, restore


@click.command("backup", epilog=EPILOG, short_help="Write the embedded store into a file.")
@click.argument("file", type=click.Path(path_type=Path))
@setting_options("data_dir", "storage")
def backup_command(file: Path, config_file: str | None, **flags: str | None) -> None:
    """Write all that is stored into FILE, which must not exist; the hub may run meanwhile.

    The file holds the hub's own secret, too, unless HUB_SECRET gives it: keep it as safe as the hub. For the embedded
    store only: a NATS JetStream has 'nats stream backup'.
    """
    try:
        made = back_up(settle(config_file, flags), file)
    except StartError as error:
        give_up(str(error))
    secret = "and the hub's secret" if made.secret else "without the hub's secret: keep HUB_SECRET with it"
    click.echo(f"{file}: {told(made)}, {secret}")


@click.command("restore", epilog=EPILOG, short_help="Make a store of a backup.")
@click.argument("file", type=click.Path(path_type=Path))
@setting_options("data_dir", "storage")
def restore_command(file: Path, config_file: str | None, **flags: str | None) -> None:
    """Make a store of a backup, in an empty or missing data directory.

    What was accepted after the backup was begun is lost, and each integration is told so: a cursor of before is
    answered with CURSOR_EXPIRED, or with a gap where it asked for that. For the embedded store only: a NATS JetStream
    has 'nats stream restore'.
    """
    settings = settle(config_file, flags)
    try:
        restored = restore(settings, file)
    except StartError as error:
        give_up(str(error))
    click.echo(f"{settings.data_dir}: {told(restored)}, of a backup begun at {moment(restored.time)}")


def told(backup: Backup) -> str:
    """What a backup holds, in a few words."""
    through = f" through {moment(backup.last_time)}" if backup.entries else ""
    return f"{backup.entries} entries{through}"


def moment(time: int) -> str:
    """A time in microseconds as people write it."""
    return datetime.fromtimestamp(time / 1_000_000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")

"""The command line: a module for each group of commands. Wrong settings end with one line and status 2."""

import os

# gRPC's core says on standard error, in its own lines, what the hub says, too. It reads this when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import click

from hub.cli.backup import backup_command, restore_command
from hub.cli.emit import emit
from hub.cli.moving import export_command, import_command
from hub.cli.serving import create_key, init, serve
from hub.cli.tail import tail
from hub.config import version


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version(), prog_name="hub", message="%(prog)s %(version)s")
def main() -> None:
    """The Tickets integration hub."""


for command in (
    *(serve, init, create_key),
    *(backup_command, restore_command, export_command, import_command),
    *(tail, emit),
):
    main.add_command(command)

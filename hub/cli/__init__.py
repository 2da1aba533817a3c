"""The command line: a module for each group of commands. Wrong settings end with one line and status 2."""

import click

from hub.cli.backup import backup_command, restore_command
from hub.cli.serving import create_key, init, serve


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """The Tickets integration hub."""


for command in (serve, init, create_key, backup_command, restore_command):
    main.add_command(command)

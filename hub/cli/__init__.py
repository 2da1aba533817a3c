"""The command line: a module for each group of commands. Wrong settings end with one line and status 2."""

import os
from importlib import import_module

# gRPC's core says on standard error, in its own lines, what the hub says, too. It reads this when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import click

from hub.cli.output import keep_standard_descriptors
from hub.config import version

COMMANDS = {
    "serve": "serve:serve",
    "init": "first_keys:init",
    "create-key": "first_keys:create_key",
    "rotate-secret": "rotate_secret:rotate_secret",
    "backup": "backup:backup_command",
    "restore": "backup:restore_command",
    "export": "migrate:export_command",
    "import": "migrate:import_command",
    "doctor": "doctor:doctor",
    "tail": "tail:tail",
    "emit": "emit:emit",
    "top": "top:top",
    "healthcheck": "healthcheck:healthcheck",
    "config": "config_command:config_command",
    "completion": "completion:completion",
}
"""Where each command lives: its module here, and its name in it."""


class Commands(click.Group):
    """Imports a command when it is used: `hub healthcheck`, which runs often, does not load the whole hub."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """The names of all commands, in alphabetical order."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  click's signature
        """The command of a name, or None."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command = getattr(import_module(f"hub.cli.{module}"), name)
        assert isinstance(command, click.Command)  # noqa: S101  the table is ours
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version(), prog_name="hub", message="%(prog)s %(version)s")
def main() -> None:
    """The Tickets integration hub."""
    keep_standard_descriptors()

"""``hub doctor``: checks the machine, the settings and the store of a hub."""

import asyncio
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import click

from hub.archive.store_checks import Finding, store_findings
from hub.archive.verify import report, verify
from hub.cli.machine_checks import machine_findings
from hub.cli.options import EPILOG, give_up, load_settings, setting_options
from hub.cli.output import echo
from hub.config import SERVING, Settings
from hub.errors import HubError, StartError
from hub.storage import examine
from hub.text import escaped

DAMAGED = 1


@click.command(epilog=EPILOG, short_help="Check the hub's machine, settings and store.")
@click.option("--verify", "verifies", is_flag=True, help="check the checksum of every entry instead")
@click.option(
    "--backup",
    "backups",
    type=click.Path(path_type=Path),
    multiple=True,
    help="with --verify: a backup to search for damaged entries",
)
@setting_options()
def doctor(verifies: bool, backups: tuple[Path, ...], config_file: str | None, **flags: str | bool | None) -> None:  # noqa: FBT001  click
    """Check data directory, disk, clock, SQLite, store, ports, certificates and backups, and say what to do.

    Give it the settings of the hub, and run it as the hub's user. The hub may be running. With --verify it reads
    every entry of the store instead, and says which backups have sound copies of damaged entries: backups named by
    --backup, and those beside the store. It changes nothing. Its exit status is 1 if it finds a problem or damage.
    """
    settings = load_settings(config_file, flags, SERVING if verifies else ())
    if verifies:
        _verify(settings, backups)
        return
    if backups:
        give_up("--backup needs --verify")
    levels = [_show(finding) for finding in chain(machine_findings(settings), _store(settings))]
    if "problem" in levels:
        sys.exit(DAMAGED)


def _store(settings: Settings) -> Iterable[Finding]:
    return store_findings(settings) if settings.storage == "sqlite" else _cluster(settings)


def _cluster(settings: Settings) -> Iterator[Finding]:
    """Whether the cluster is there and has the hub's streams as they must be."""
    try:
        yield Finding("store", "ok", asyncio.run(examine(settings)))
    except StartError as error:
        yield Finding("store", "problem", str(error))


def _show(finding: Finding) -> str:
    """Print a finding; returns its level."""
    try:
        echo(f"{finding.level:8} {finding.check:14} {escaped(finding.text)}")
    except BrokenPipeError:
        sys.exit(DAMAGED)
    return finding.level


def _verify(settings: Settings, backups: Iterable[Path]) -> None:
    """Print each damage; ends with status 1 where there is some."""
    try:
        lines = asyncio.run(_damage(settings, [*backups, *_beside(settings)]))
    except StartError as error:
        give_up(str(error))
    except HubError as error:
        give_up(error.message)
    for line in lines:
        click.echo(line)
    if lines:
        sys.exit(DAMAGED)
    click.echo("no damage was found")


async def _damage(settings: Settings, backups: list[Path]) -> list[str]:
    return list(report(settings, await verify(settings), backups))


def _beside(settings: Settings) -> list[Path]:
    """The backups in the data directory and beside it."""
    directory = settings.data_dir.absolute()
    return sorted(file for place in (directory, directory.parent) for file in place.glob("*.ba[ck]*") if file.is_file())

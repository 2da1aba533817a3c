"""``hub serve``, ``hub init``, ``hub create-key``: the hub itself, and the keys that it begins with."""

import asyncio
import signal
import sys
from typing import Any

import click
import structlog
from msgspec.structs import replace

from hub.cli.settling import run, setting_options, settle
from hub.clock import Clock
from hub.config import Settings
from hub.control import keys
from hub.control.changes import COMMAND_LINE, encode_change, initialise
from hub.control.registry import SERVICE_KEY, Registry
from hub.errors import StartError
from hub.model import Entry, Kind, Role
from hub.storage import open_storage


@click.command()
@setting_options()
def serve(config_file: str | None, **flags: str | bool | None) -> None:
    """Run the hub until it is told to stop (SIGTERM, Ctrl-C)."""
    settings = settle(config_file, flags)
    run(_serve(settings))


@click.command()
@setting_options("data_dir", "storage")
def init(config_file: str | None, **flags: str | None) -> None:
    """Make the store and print the first keys, if it has none yet; nothing is served."""
    run(_init(settle(config_file, flags)))


@click.command("create-key")
@click.option("--role", type=click.Choice(["admin", "bot"]), required=True, help="what the key lets its holder be")
@click.option("--name", default="made on the command line", help="what it is for")
@setting_options("data_dir", "storage")
def create_key(role: str, name: str, config_file: str | None, **flags: str | None) -> None:
    """Make a key while the hub is stopped, for example when the last one was lost."""
    run(_create_key(settle(config_file, flags), Role[role.upper()], name))


async def _serve(settings: Settings) -> None:
    from hub.api.server import Hub  # noqa: PLC0415  the other commands do without all of it

    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, told.set)
    hub = await Hub.start(settings)
    try:
        show_first_keys(hub.first_keys)
        waiting: asyncio.Future[Any] = asyncio.ensure_future(told.wait())
        await asyncio.wait([waiting, hub.failed], return_when=asyncio.FIRST_COMPLETED)
        if hub.failed.done():
            structlog.get_logger().error("cannot go on", exc_info=hub.failed.exception())
            sys.exit(1)
    finally:
        await hub.stop()


async def _init(settings: Settings) -> None:
    log = await open_storage(settings)
    try:
        secret, registry = await _state(log)
        made = await initialise(log, registry, Clock(), secret)
    finally:
        await log.close()
    show_first_keys(made)
    if made is None:
        click.echo("hub: the store has its keys already: 'hub create-key' makes another one", err=True)


async def _create_key(settings: Settings, role: Role, name: str) -> None:
    log, clock = await open_storage(settings), Clock()
    try:
        _, registry = await _state(log)
        if not registry.service.position:
            raise StartError("the store is empty: 'hub init' makes the first keys")
        minted = keys.mint(role, registry.pepper, clock.now(), display_name=name)
        before = registry.service.record
        after = replace(before, keys=(minted.record, *before.keys))
        body = encode_change(COMMAND_LINE, before, after, "hub create-key")
        entry = Entry(Kind.STATE, clock.now(), body, key=SERVICE_KEY)
        await log.append([entry], {SERVICE_KEY: registry.service.position})
    finally:
        await log.close()
    show_first_keys({role: minted.text})


async def _state(log: Any) -> tuple[bytes, Registry]:  # noqa: ANN401  a Log
    secret = await log.secret()
    entries, through = await log.snapshot()
    registry = Registry(secret, Clock())
    registry.apply(entries)
    registry.advance(through)
    return secret, registry


def show_first_keys(made: dict[Role, str] | None) -> None:
    """Print new keys, each alone on its line: this is the only time that they are shown."""
    for role, text in (made or {}).items():
        click.echo(f"HUB_{role.name}_KEY={text}")
    sys.stdout.flush()

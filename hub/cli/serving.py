"""``hub serve``, ``hub init``, ``hub create-key``: the hub itself, and the keys that it begins with."""

import asyncio
import gc
import signal
import sys
from typing import Any

import click
import structlog
from msgspec.structs import replace

from hub.cli.settling import EPILOG, run, setting_options, settle
from hub.clock import Clock
from hub.config import Settings
from hub.control import keys
from hub.control.changes import COMMAND_LINE, encode_change, initialise
from hub.control.registry import SERVICE_KEY, Registry
from hub.errors import StartError
from hub.model import Entry, Kind, Role
from hub.storage import open_storage
from hub.storage._carried import require_store


@click.command(epilog=EPILOG, short_help="Run the hub.")
@setting_options()
def serve(config_file: str | None, **flags: str | bool | None) -> None:
    """Run the hub until it is told to stop (SIGTERM, Ctrl-C)."""
    settings = settle(config_file, flags)
    run(_serve(settings))


@click.command(epilog=EPILOG, short_help="Make the store and print the first keys.")
@setting_options("data_dir", "storage")
def init(config_file: str | None, **flags: str | None) -> None:
    """Make the store and print the first keys, if it has none yet; nothing is served."""
    run(_init(settle(config_file, flags)))


@click.command("create-key", epilog=EPILOG, short_help="Make a key while the hub is stopped.")
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
    waiting: asyncio.Future[Any] = asyncio.ensure_future(told.wait())
    hub = Hub(settings, Clock())
    if not await _begun(hub, waiting):
        return
    gc.freeze()  # what the start has made stays: looking through it again and again held up everybody for 30 ms
    try:
        await asyncio.wait([waiting, hub.failed], return_when=asyncio.FIRST_COMPLETED)
        if hub.failed.done():
            structlog.get_logger().error("cannot go on", exc_info=hub.failed.exception())
            sys.exit(1)
    finally:
        await hub.stop()


async def _begun(hub: Any, told: asyncio.Future[Any]) -> bool:  # noqa: ANN401  a Hub, imported late
    """Whether the hub serves before it is told to stop: a store that does not answer must not keep anybody waiting."""
    starting: asyncio.Future[Any] = asyncio.ensure_future(hub.begin())
    try:
        await asyncio.wait([starting, told], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
        await starting
    except asyncio.CancelledError:
        return False
    finally:
        show_first_keys(hub.first_keys)
    return True


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
    if settings.storage == "sqlite":
        require_store(settings)
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

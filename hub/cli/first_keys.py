"""``hub init``, ``hub create-key``: a hub's first keys, and more. A key is printed before it is stored."""

import click
from msgspec.structs import replace
from tickets.hub.v1.admin_service_pb2 import CreateServiceKeyRequest
from tickets.hub.v1.permissions_pb2 import ROLE_BOT

from hub.api.validation import check
from hub.archive.files import require_store
from hub.cli.options import EPILOG, load_settings, run, setting_options
from hub.cli.output import show_soon
from hub.clock import Clock
from hub.config import SERVING, Settings
from hub.control.audit import encode_change
from hub.control.hub_secret import HubSecret, choose
from hub.control.registry import Registry
from hub.control.transactions import COMMAND_LINE, initialise
from hub.errors import Conflict, InvalidRequest, StartError
from hub.model import Entry, Kind, Role
from hub.state import SERVICE_KEY
from hub.storage import Log, open_storage
from hub.text import nfc


@click.command(epilog=EPILOG, short_help="Make the store and print the first keys.")
@setting_options("data_dir", "storage")
def init(config_file: str | None, **flags: str | None) -> None:
    """Make the store and print the first keys, unless it has keys already. The hub does not start."""
    run(_init(load_settings(config_file, flags, SERVING)))


def read_name(_context: click.Context, _option: click.Parameter, name: str) -> str:
    """The --name of a key, by the contract's rules for it."""
    try:
        request = CreateServiceKeyRequest(role=ROLE_BOT, display_name=nfc(name))
        check(request)
    except UnicodeEncodeError:
        raise click.BadParameter("must be UTF-8") from None
    except InvalidRequest as error:
        raise click.BadParameter("; ".join(one.description for one in error.violations)) from None
    return request.display_name


@click.command("create-key", epilog=EPILOG, short_help="Make a key while the hub is stopped.")
@click.option("--role", type=click.Choice(["admin", "bot"]), required=True, help="the role of its holder")
@click.option("--name", default="made on the command line", callback=read_name, help="what it is for")
@setting_options("data_dir", "storage")
def create_key(role: str, name: str, config_file: str | None, **flags: str | None) -> None:
    """Make a key while the hub is stopped, for example when the last admin key was lost."""
    run(_create_key(load_settings(config_file, flags, SERVING), Role[role.upper()], name))


async def show_keys(made: dict[Role, str]) -> None:
    """Print new keys, each on a line of its own: they are not shown again.

    Raises:
        StartError: they cannot be printed.
    """
    try:
        await show_soon("\n".join(f"HUB_{role.name}_KEY={text}" for role, text in made.items()))
    except StartError as error:
        raise StartError(f"{error}: no key was made") from None


async def _init(settings: Settings) -> None:
    log = await open_storage(settings)
    try:
        secret, registry = await _state(log)
        made = await initialise(log, registry, Clock(), secret, show_keys)
    finally:
        await log.close()
    if made is None:
        click.echo("hub: the store has its keys already: 'hub create-key' makes another one", err=True)


async def _create_key(settings: Settings, role: Role, name: str) -> None:
    if settings.storage == "sqlite":
        require_store(settings)
    log, clock = await open_storage(settings), Clock()
    try:
        _, registry = await _state(log)
        if not registry.service.position:
            raise StartError("the store has no keys yet: 'hub init' makes the first ones")
        minted = registry.keyring.mint(role, display_name=name)
        before = registry.service.record
        after = replace(before, keys=(minted.record, *before.keys))
        body = encode_change(COMMAND_LINE, before, after, "hub create-key")
        entry = Entry(Kind.STATE, clock.now(), body, key=SERVICE_KEY)
        await show_keys({role: minted.text})
        await log.append([entry], {SERVICE_KEY: registry.service.position})
    except Conflict:
        raise StartError("other keys were changed at this moment: the printed key is not valid: try again") from None
    finally:
        await log.close()


async def _state(log: Log) -> tuple[HubSecret, Registry]:
    entries, through = await log.snapshot()
    secret = choose(await log.secrets(), entries)
    registry = Registry(secret, Clock())
    registry.apply(entries)
    registry.advance(through)
    return secret, registry

"""``hub rotate-secret``: gives a stopped hub a new secret."""

import os
from collections.abc import Sequence
from pathlib import Path

import click
from pydantic import SecretStr

from hub.archive.files import require_store
from hub.cli.options import EPILOG, load_settings, run, setting_options
from hub.clock import Clock
from hub.config import SERVING, Settings
from hub.control.audit import encode_change
from hub.control.endpoints import name_of
from hub.control.hub_secret import HubSecret, choose
from hub.control.registry import Registry
from hub.control.transactions import COMMAND_LINE
from hub.crypto import derived_secrets, state_check
from hub.errors import Conflict, StartError
from hub.model import Entry, Kind
from hub.secret_files import check_length, read_secret
from hub.state import SECRET_KEY
from hub.storage import open_storage


@click.command("rotate-secret", epilog=EPILOG, short_help="Give a stopped hub a new secret.")
@click.option(
    "--old-secret-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="a file that contains the present secret; not needed if the store keeps it",
)
@click.option("--forget-earlier", is_flag=True, help="stop accepting earlier secrets, without a rotation")
@setting_options("data_dir", "storage", "nats_stream", "secret_file")
def rotate_secret(
    old_secret_file: Path | None,
    forget_earlier: bool,  # noqa: FBT001  click passes everything by name
    config_file: str | None,
    **flags: str | None,
) -> None:
    """Give a stopped hub a new secret: that of HUB_SECRET or HUB_SECRET_FILE, else a random one, kept in the store.

    Keys go on working and move to the new secret when they are next used; cursors go on working until the retention
    has passed. Stop every hub of the store first.
    """
    settings = load_settings(config_file, flags, SERVING)
    if forget_earlier:
        run(_forget(settings))
    else:
        run(_rotate(settings, old_secret_file))


async def _rotate(settings: Settings, old_secret_file: Path | None) -> None:
    old = SecretStr(_old_secret(old_secret_file)) if old_secret_file is not None else None
    new = os.urandom(32) if settings.secret is None else derived_secrets(settings.secret.get_secret_value())[0]
    count = await _change(settings.model_copy(update={"secret": old}), new, keep=settings.secret is None)
    place = "kept with the store" if settings.secret is None else "that of the settings"
    click.echo(f"the hub has a new secret, {place}; earlier secrets still accepted: {count}")


async def _forget(settings: Settings) -> None:
    await _change(settings, None, keep=settings.secret is None)
    click.echo("earlier secrets are no longer accepted: keys not used since the rotation have stopped working")


def _old_secret(file: Path) -> str:
    try:
        return check_length(read_secret(file, "--old-secret-file"))
    except ValueError as error:
        raise StartError(f"--old-secret-file: {error}") from None


async def _change(settings: Settings, new: bytes | None, *, keep: bool) -> int:
    """Rotate to another secret, or forget the earlier ones; returns how many earlier secrets are still accepted."""
    if settings.storage == "sqlite":
        require_store(settings)
    log, now = await open_storage(settings), Clock().now()
    try:
        entries, _ = await log.snapshot()
        before = choose(await log.secrets(), entries)
        positions = {entry.key: entry.position for entry in entries}
        if SECRET_KEY not in positions:
            raise StartError("the store has no keys yet: remove it, then make a new one with 'hub init'")
        if new is None:
            _check_dependent(before, entries)
        if new == before.current:
            raise StartError("the store has this secret already: set HUB_SECRET to another one")
        after = HubSecret(before.current) if new is None else before.followed_by(new, now)
        body = encode_change(COMMAND_LINE, before.record, after.record, "hub rotate-secret")
        entry = Entry(Kind.STATE, now, body, key=SECRET_KEY)
        await log.rotate_secret(after.current, entry, {SECRET_KEY: positions[SECRET_KEY]}, keep=keep)
        return len(after.earlier)
    except Conflict:
        raise StartError(
            "another hub changed the secret meanwhile: stop every hub of this store, then try again"
        ) from None
    finally:
        await log.close()


def _check_dependent(secret: HubSecret, entries: Sequence[Entry]) -> None:
    """Refuse to forget what an erasure still needs, and name the endpoints that get nothing without it.

    Raises:
        StartError: an erasure still needs an earlier secret.
    """
    registry = Registry(secret, Clock())
    registry.apply(entries)
    if dependent := registry.hidden.erasures.of_earlier_secrets():
        raise StartError(
            f"{len(dependent)} erasures still depend on an earlier secret: start the hub, wait until ListErasures "
            "shows them as DONE, stop it, then try again"
        )
    check = state_check(secret.current)
    for endpoint in registry.endpoints.all():
        if endpoint.signing is not None and endpoint.signing.check != check:
            name = name_of(endpoint)
            click.echo(f"endpoint {name} gets nothing from now on, until its developer calls RotateEndpointSecret")

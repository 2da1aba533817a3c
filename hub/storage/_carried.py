"""What a backup and an export have in common: a file that carries a store, and with it the hub's secret.

Lives here: that there is a store to carry, that a file gets its name when it is whole, whether a secret fits. Must not
know what such a file holds.
"""

import os
from pathlib import Path

from hub.config import Settings
from hub.errors import StartError
from hub.storage._files import DATABASE, LOCK, complaints, derived_secret, sync_directory
from hub.storage._schema import secret_check


def require_store(settings: Settings) -> Path:
    """The database of the data directory.

    Raises:
        StartError: there is none; nothing is made.
    """
    database = settings.data_dir.absolute() / DATABASE
    if not database.is_file() or not database.stat().st_size:
        raise StartError(f"there is no store in {database.parent}: set HUB_DATA_DIR to the directory of the hub")
    return database


def refuse_used(path: Path, what: str) -> None:
    """Check that there is nothing in a directory but perhaps a lock that nobody holds; `what`: "restore".

    Raises:
        StartError: it holds something.
    """
    with complaints(f"data directory {path}"):
        found = sorted({entry.name for entry in path.iterdir()} - {LOCK}) if path.exists() else []
    if found:
        raise StartError(f"data directory {path} is not empty (it holds {found[0]}): {what} into an empty or a new one")


def refuse_existing(file: Path, what: str) -> None:
    """Check that a file is new; `what`: "a backup".

    Raises:
        StartError: there is something of its name.
    """
    if os.path.lexists(file):
        raise StartError(f"{file} exists already: {what} overwrites nothing")


def give_name(part: Path, file: Path, what: str) -> None:
    """Under its name there is all of it or nothing, and nothing is overwritten; `what`: "a backup".

    Raises:
        StartError: there is something of its name by now.
    """
    with part.open("rb") as whole:
        os.fsync(whole.fileno())
    try:
        os.link(part, file)
    except FileExistsError:
        raise StartError(f"{file} exists already: {what} overwrites nothing") from None
    except OSError:  # a file system without links
        part.rename(file)
    try:
        sync_directory(file.parent)
    except OSError:
        file.unlink()
        raise


def given_secret_fits(settings: Settings, check: bytes) -> bool:
    """Whether the settings give the secret of a store with this check."""
    if settings.secret is None:
        return False
    return secret_check(derived_secret(settings.secret.get_secret_value())) == check


def fitting_secret(settings: Settings, carried: bytes, check: bytes, what: str) -> bytes:
    """The secret to lay beside a store that is made of a file; b"" where the settings give it.

    Args:
        settings: of the hub that is to serve the store.
        carried: the secret in the file; b"" where its hub had it from the settings.
        check: tells the secret that fits.
        what: "backup".

    Raises:
        StartError: there is none that fits.
    """
    if settings.secret is not None and not given_secret_fits(settings, check):
        raise StartError(
            f"HUB_SECRET does not fit this {what}: "
            + (f"unset it, the {what} has its own secret" if carried else "set it as it was when it was made")
        )
    if settings.secret is None and not carried:
        raise StartError(f"this {what} was made without the hub's secret: set HUB_SECRET as it was")
    if carried and secret_check(carried) != check:
        raise StartError(f"the {what} is damaged: the hub's secret in it is another one")
    return b"" if settings.secret is not None else carried

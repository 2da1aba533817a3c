"""Files of backups and exports: published atomically, never overwritten, with a secret that fits their store."""

import os
import secrets
from pathlib import Path

from hub.config import Settings
from hub.crypto import derived_secrets, secret_check
from hub.errors import StartError
from hub.storage.sqlite.data_directory import (
    DATABASE,
    ERASURES,
    LOCK,
    as_start_error,
    erasures_path,
    make_private,
    sync_directory,
)


def require_store(settings: Settings) -> Path:
    """The path of the data directory's database.

    Raises:
        StartError: there is none; nothing is created.
    """
    database = settings.data_dir.absolute() / DATABASE
    if not database.is_file() or not database.stat().st_size:
        raise StartError(f"there is no store in {database.parent}: set HUB_DATA_DIR to the directory of the hub")
    return database


def refuse_used(path: Path, what: str) -> None:
    """Check that a directory is empty, apart from a free lock and a list of erasures; `what`: "restore".

    Raises:
        StartError: it is not empty.
    """
    with as_start_error(f"data directory {path}"):
        found = sorted({entry.name for entry in path.iterdir()} - {LOCK, ERASURES}) if path.exists() else []
    if found:
        raise StartError(f"data directory {path} is not empty (it has {found[0]}): {what} into an empty or a new one")


def refuse_existing(file: Path, what: str) -> None:
    """Check that a file is new; `what`: "a backup".

    Raises:
        StartError: a file of that name exists.
    """
    if os.path.lexists(file):
        raise StartError(f"{file} exists already: {what} never overwrites a file: name another one")


def publish_atomically(part: Path, file: Path, what: str) -> None:
    """Publish a finished file atomically; never overwrites. `what`: "a backup".

    Raises:
        StartError: a file of that name exists by now.
    """
    with part.open("rb") as whole:
        os.fsync(whole.fileno())
    try:
        os.link(part, file)
    except FileExistsError:
        raise StartError(f"{file} exists already: {what} never overwrites a file: name another one") from None
    except OSError:  # a file system without links
        part.rename(file)
    try:
        sync_directory(file.parent)
    except OSError:
        file.unlink()
        raise


def copy_erasures(settings: Settings, file: Path | None) -> Path | None:
    """Copy a list of erasures to where the hub reads it; returns the new file, if one was made.

    Raises:
        StartError: there is no such file, there is a list already, or the hub keeps none (NATS without the setting).
    """
    target = erasures_path(settings)
    if file is None:
        return None
    if target is None:
        raise StartError("with NATS the hub has a list of erasures only if HUB_ERASURES_FILE is set: set it")
    refuse_existing(target, "a list of erasures")
    part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    with as_start_error(f"erasures file {file}"):
        make_private(part)
        try:
            part.write_bytes(file.read_bytes())
            publish_atomically(part, target, "a list of erasures")
        finally:
            part.unlink(missing_ok=True)
    return target


def given_secret_fits(settings: Settings, check: bytes) -> bool:
    """Whether the settings contain the secret with this check."""
    if settings.secret is None:
        return False
    return any(secret_check(secret) == check for secret in derived_secrets(settings.secret.get_secret_value()))


def fitting_secret(settings: Settings, carried: bytes, check: bytes, what: str) -> bytes:
    """The secret to store beside a restored or imported store; b"" if the settings give it.

    Args:
        settings: of the hub that is to serve the store.
        carried: the secret in the file; b"" where its hub had it from the settings.
        check: the digest of the matching secret.
        what: "backup".

    Raises:
        StartError: no secret matches.
    """
    if settings.secret is not None and not given_secret_fits(settings, check):
        raise StartError(
            f"HUB_SECRET does not match this {what}: "
            + (f"unset it, the {what} has its own secret" if carried else "set it to its value at that time")
        )
    if settings.secret is None and not carried:
        raise StartError(f"this {what} was made without the hub's secret: set HUB_SECRET to its value at that time")
    if carried and secret_check(carried) != check:
        raise StartError(f"the {what} is damaged: the hub's secret in it does not match its check")
    return b"" if settings.secret is not None else carried

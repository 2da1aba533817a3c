"""Opening the database file: created if it is empty, else checked and upgraded to this hub's format. Blocks."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from hub.crypto import secret_check
from hub.errors import StartError
from hub.storage.sqlite.check import check_store, with_newest
from hub.storage.sqlite.data_directory import as_start_error
from hub.storage.sqlite.schema import Meta, database_as_start_error, is_empty, make, read_meta, refuse_foreign
from hub.storage.sqlite.upgrade import upgrade

OLDEST_SQLITE = (3, 35, 0)
"""The first with RETURNING. See docs/adr about the versions up to 3.51.2."""


def prepare(path: Path, secrets: Sequence[bytes], *, carry_secret: bool) -> tuple[bytes, Meta]:
    """Create the tables in an empty file; else check the store, and upgrade an older format.

    Args:
        path: of the database.
        secrets: candidates for the hub's own secret.
        carry_secret: whether the backup before an upgrade must hold the secret, because the settings do not give it.

    Returns:
        The store's secret, and its metadata.

    Raises:
        StartError: it is no database, another program's, of a newer format, of another secret, damaged, or cannot be
            written.
    """
    require_sqlite(sqlite3.sqlite_version_info)
    connection = sqlite3.connect(path, isolation_level=None, timeout=5)
    try:
        with database_as_start_error(f"database {path}"), as_start_error(f"database {path}"):
            if is_empty(connection):
                make(connection, secret_check(secrets[0]))
            refuse_foreign(connection, path)
            secret = _fitting(secrets, read_meta(connection).secret_check, path)
            upgrade(connection, path, secret if carry_secret else b"")
            check_store(connection, path)
            return secret, with_newest(connection, read_meta(connection))
    finally:
        connection.close()


def _fitting(secrets: Sequence[bytes], check: bytes, path: Path) -> bytes:
    for secret in secrets:
        if secret_check(secret) == check:
            return secret
    raise StartError(
        f"the secret does not match the store {path}: set HUB_SECRET to its former value, or restore its "
        "secret file; to change the secret use 'hub rotate-secret'"
    )


def require_sqlite(found: tuple[int, int, int]) -> None:
    """Check the version of Python's SQLite library.

    Raises:
        StartError: it is too old.
    """
    if found < OLDEST_SQLITE:
        raise StartError(
            f"this Python has SQLite {_dotted(found)}, the hub needs {_dotted(OLDEST_SQLITE)} or newer: use another "
            "Python, or keep the log in NATS JetStream"
        )


def _dotted(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))

"""Opening an empty store under the secret of another store, to import its content."""

from pathlib import Path

from hub.archive.files import refuse_used
from hub.config import Settings
from hub.errors import StartError
from hub.storage import Log, open_storage
from hub.storage.sqlite.data_directory import DataDirectory


async def open_empty(settings: Settings, secret: bytes) -> Log:
    """Open an empty log, and create it if it is missing.

    Args:
        settings: they name it.
        secret: its new secret; b"" if the settings give it.

    Raises:
        StartError: it is not empty, has another secret already, or cannot be opened.
    """
    if settings.storage == "sqlite":
        _begin_directory(settings.data_dir.absolute(), secret)
        return await open_storage(settings)
    log = await open_storage(settings)
    try:
        await _begin_stream(log, settings, secret)
    except BaseException:
        await log.close()
        raise
    return log


def _begin_directory(path: Path, secret: bytes) -> None:
    """Store the secret before there is a database: a later start finds it."""
    refuse_used(path, "import")
    directory = DataDirectory.open(path)
    try:
        refuse_used(path, "import")  # under the lock, so that nobody else can begin one
        if secret:
            directory.keep_secrets([secret])
    finally:
        directory.close()


async def _begin_stream(log: Log, settings: Settings, secret: bytes) -> None:
    from hub.storage.jetstream.setup import advice_for_used, initialise_secret  # noqa: PLC0415  its driver may not be installed

    if (await log.bounds()).last:
        raise StartError(f"stream {settings.nats_stream} is not empty: {advice_for_used(settings)}")
    if secret:
        await initialise_secret(settings, secret)

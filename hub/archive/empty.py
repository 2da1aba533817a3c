"""Opening a store that holds nothing yet, so that it can become another one, with the secret of that."""

from pathlib import Path

from hub.config import Settings
from hub.errors import StartError
from hub.storage import Log, open_storage
from hub.storage._carried import refuse_used
from hub.storage._files import DataDirectory


async def open_empty(settings: Settings, secret: bytes) -> Log:
    """Open an empty log; it is made where there is none.

    Args:
        settings: they name it.
        secret: what it is to have for its own; b"" where the settings give it.

    Raises:
        StartError: it holds something, has another secret already, or cannot be opened.
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
    """Lay the secret before there is a database: a later start finds it there."""
    refuse_used(path, "import")
    directory = DataDirectory.open(path)
    try:
        refuse_used(path, "import")  # now that nobody else can begin one
        if secret:
            directory.keep_secret(secret)
    finally:
        directory.close()


async def _begin_stream(log: Log, settings: Settings, secret: bytes) -> None:
    from hub.storage._jetstream_setup import in_place_of, lay_secret  # noqa: PLC0415  its driver may not be installed

    if (await log.bounds()).last:
        raise StartError(f"stream {settings.nats_stream} is not empty: {in_place_of(settings)}")
    if secret:
        await lay_secret(settings, secret)

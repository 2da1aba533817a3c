"""Every backend, behind one fixture: a new one adds its name and its store here, and the suite holds it to the seam."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from hub.storage import Log
from tests.support.stores import JetStreamStore, SqliteStore, Store

STORES: dict[str, Callable[[Path], Store]] = {"sqlite": SqliteStore, "jetstream": JetStreamStore}
BACKENDS = list(STORES)


@pytest.fixture(params=BACKENDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An empty store of each backend."""
    store = STORES[request.param](tmp_path / "data")
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def log(store: Store) -> Log:
    """A log on an empty store."""
    return await store.open()

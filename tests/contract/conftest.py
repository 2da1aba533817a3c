"""Every backend, behind one fixture: a new one adds its name and its store here, and the suite holds it to the seam."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hub.storage import Log
from tests.contract.stores import SqliteStore, Store

BACKENDS = ["sqlite"]


@pytest.fixture(params=BACKENDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """An empty store of each backend."""
    del request  # one backend so far
    store = SqliteStore(tmp_path / "data")
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def log(store: Store) -> Log:
    """A log on an empty store."""
    return await store.open()

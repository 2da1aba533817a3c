"""A cache of rendered pages; the key of a page includes the state that it shows."""

from collections import OrderedDict
from collections.abc import Hashable

from hub.http.assets import Asset

MAX_BYTES = 16 * 1024 * 1024


class Cache:
    """Keeps the most recently used pages, up to `MAX_BYTES`."""

    def __init__(self) -> None:
        self._pages: OrderedDict[Hashable, Asset] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable) -> Asset | None:
        """A page; None if it is not cached."""
        page = self._pages.get(key)
        if page is not None:
            self._pages.move_to_end(key)
        return page

    def put(self, key: Hashable, page: Asset) -> None:
        """Store a page, and drop the least recently used ones."""
        self._pages[key] = page
        self._bytes += len(page.body)
        while self._bytes > MAX_BYTES:
            _, oldest = self._pages.popitem(last=False)
            self._bytes -= len(oldest.body)

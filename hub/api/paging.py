"""Lists by AIP-158: page sizes, and page tokens that are opaque and valid only for the list that they were made for.

A token is sealed (AES-SIV) together with the list's name and filter: one that was altered, or is used with another
filter, does not open.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Protocol, TypeVar

import msgspec
from google.protobuf.message import Message

from hub.api.scans import Scans
from hub.clock import Clock
from hub.config import Settings
from hub.control.registry import Registry
from hub.control.versioned import Versioned
from hub.crypto import Seal
from hub.errors import InvalidRequest
from hub.model import IntegrationRecord
from hub.slices import Steps

ENTRY_OVERHEAD = 4
"""Bytes of an entry's tag and length in a page."""

Item = TypeVar("Item")
Shown = TypeVar("Shown", bound=Message)


def age(versioned: Versioned[IntegrationRecord]) -> tuple[int, str]:
    """The sort key of integrations, the oldest first."""
    return versioned.record.create_time, versioned.record.integration_id


def nothing(_: Message) -> Sequence[Message]:
    """The rest of a page that holds nothing but entries."""
    return ()


class Paged(Protocol):
    """A request for a page."""

    page_size: int
    page_token: str


class Room:
    """The room that is left on a page, in entries and bytes; one entry always fits."""

    def __init__(self, entries: int, size: int) -> None:
        self._most = entries
        self._entries = 0
        self._bytes = size

    def takes(self, entry: Message, beside: Sequence[Message] = ()) -> bool:
        """Take room for one more entry and what the page holds beside it; returns whether it fits."""
        size = sum(one.ByteSize() + ENTRY_OVERHEAD for one in (entry, *beside))
        if self._entries and (self._entries == self._most or size > self._bytes):
            return False
        self._entries += 1
        self._bytes -= size
        return True


class Pages:
    """Reads page sizes and tokens of requests, and makes tokens."""

    def __init__(self, secret: bytes, settings: Settings, clock: Clock) -> None:
        self.scans = Scans(settings, clock)
        self._seal = Seal(secret, "page tokens")
        self._settings = settings

    def size(self, requested: int) -> int:
        """The number of entries to list; 0 asks for the default, too large a number for the maximum (AIP-158)."""
        return min(requested or self._settings.page_size, self._settings.max_page_size)

    async def page(
        self,
        found: AsyncGenerator[Item, None],
        show: Callable[[Item], Shown],
        place: Callable[[Item], Sequence[int | str]],
        request: Paged,
        *listing: str,
        beside: Callable[[Shown], Sequence[Message]] = nothing,
    ) -> tuple[list[Shown], str]:
        """A page of the entries found, limited by count and by bytes, and the token for the next page.

        Args:
            found: the entries after the place in the request's token.
            show: converts an entry to its message.
            place: the sort key of an entry in the list.
            request: the request, with its page size and token.
            listing: names the list and its filter.
            beside: what the page holds beside an entry; its bytes count, too.
        """
        room = self.room(request)
        page: list[Shown] = []
        last: Sequence[int | str] = ()
        steps = Steps()
        async with aclosing(found) as entries:
            async for entry in entries:
                message = show(entry)
                if not room.takes(message, beside(message)):
                    return page, self.token(last, *listing)
                page.append(message)
                last = place(entry)
                await steps.pause()
        return page, ""

    def room(self, request: Paged) -> "Room":
        """The room on a requested page."""
        return Room(self.size(request.page_size), self._settings.max_page_bytes)

    async def by_age(
        self,
        registry: Registry,
        test: Callable[[IntegrationRecord], bool],
        show: Callable[[Versioned[IntegrationRecord]], Shown],
        request: Paged,
        *listing: str,
    ) -> tuple[list[Shown], str]:
        """A page of the integrations that pass a test, the oldest first, and the token for the next."""
        after = self.after(request.page_token, *listing)
        place = (int(after[0]), str(after[1])) if after else None
        found = self.scans.walk(registry.integrations_after, age, place, lambda versioned: test(versioned.record))
        return await self.page(found, show, age, request, *listing)

    def token(self, after: Sequence[int | str], *listing: str) -> str:
        """A token for the page after a place; `listing` names the list and its filter."""
        return self._seal.seal(msgspec.json.encode(after), *(part.encode() for part in listing)).decode()

    def after(self, token: str, *listing: str) -> list[int | str] | None:
        """The place that a token was made for; None for the first page.

        Raises:
            InvalidRequest: the token is invalid, or of another list.
        """
        if not token:
            return None
        inside = self._seal.open(token, *(part.encode() for part in listing))
        if inside is None:
            raise InvalidRequest.field(
                "page_token", "is not a token of this list: send next_page_token unchanged, with the same filter"
            )
        return msgspec.json.decode(inside, type=list[int | str])

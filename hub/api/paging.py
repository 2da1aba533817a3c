"""Lists by AIP-158: page sizes, and page tokens that are opaque and hold only for the list that they were made for.

A token is sealed (AES-SIV) together with the list's name and filter: one that was altered, or is used with another
filter, does not open.
"""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from hub.config import Settings
from hub.control.keys import derive
from hub.control.registry import Held, Registry
from hub.errors import InvalidRequest
from hub.model import IntegrationRecord


class Paged(Protocol):
    """A request for a page."""

    page_size: int
    page_token: str


class Pages:
    """Reads page sizes and tokens of requests, and makes tokens."""

    def __init__(self, secret: bytes, settings: Settings) -> None:
        self._cipher = AESSIV(derive(secret, "page tokens", 64))
        self._settings = settings

    def size(self, asked: int) -> int:
        """How many to list; 0 asks for the default, too much for the most there may be (AIP-158)."""
        return min(asked or self._settings.page_size, self._settings.max_page_size)

    def by_age(
        self, registry: Registry, test: Callable[[IntegrationRecord], bool], asked: Paged, *listing: str
    ) -> tuple[list[Held[IntegrationRecord]], str]:
        """A page of the integrations that pass a test, the oldest first, and the token for the next."""
        size = self.size(asked.page_size)
        after = self.after(asked.page_token, *listing)
        found = registry.integrations_after((int(after[0]), str(after[1])) if after else None, test, size + 1)
        if len(found) <= size:
            return found, ""
        last = found[size - 1].record
        return found[:size], self.token((last.create_time, last.integration_id), *listing)

    def token(self, after: Sequence[int | str], *listing: str) -> str:
        """A token for the page after a place; `listing` names the list and its filter."""
        sealed = self._cipher.encrypt(msgspec.json.encode(after), [part.encode() for part in listing])
        return base64.urlsafe_b64encode(sealed).decode()

    def after(self, token: str, *listing: str) -> list[int | str] | None:
        """The place that a token was made for; None for the first page.

        Raises:
            InvalidRequest: the token is none, or of another list.
        """
        if not token:
            return None
        try:
            sealed = base64.b64decode(token, altchars=b"-_", validate=True)
            inside = self._cipher.decrypt(sealed, [part.encode() for part in listing])
        except (ValueError, binascii.Error, InvalidTag):
            raise InvalidRequest.field(
                "page_token", "is no token of this list: send next_page_token as it came, with the same filter"
            ) from None
        return msgspec.json.decode(inside, type=list[int | str])

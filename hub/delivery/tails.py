"""Tails: an admin reads what an integration gets, without affecting the integration's own streams."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec.structs import replace

from hub.control.transactions import Changes
from hub.delivery.options import SubscribeOptions, Subscriber
from hub.delivery.starts import Starts
from hub.delivery.stream import Stream
from hub.delivery.streams import Streams
from hub.delivery.writes import OnStall
from hub.model import Caller, OversightRecord


class Tails:
    """Opens tails. A tail applies the current view of the integration, and ends with the admin's key."""

    def __init__(self, streams: Streams, starts: Starts, changes: Changes) -> None:
        self._streams = streams
        self._starts = starts
        self._changes = changes

    @asynccontextmanager
    async def open(
        self, admin: Caller, integration_id: str, options: SubscribeOptions, reason: str, on_stall: OnStall
    ) -> AsyncIterator[Stream]:
        """Open a tail; leaving the context closes it. The audit trail records it before anything is shown.

        Raises:
            IntegrationNotFound, Draining, TooManyStreams, ScopeNotGranted, CursorInvalid, CursorExpired: it cannot be
                opened.
            IntegrationPending, IntegrationSuspended, IntegrationRejected, IntegrationDeleted, DeveloperBlocked: the
                integration gets nothing.
        """
        tail = Subscriber(replace(admin, integration_id=integration_id), options, secrets.token_hex(8))
        self._streams.require_permission(tail.caller, options)
        with self._streams.slots.of_tail(tail.stream_id):
            start = await self._starts.cursor_for(options, "")
            begun = await self._changes.oversee(admin, OversightRecord(integration_id, "tail"), reason)
            with self._streams.running(tail, start or self._starts.at(begun), on_stall) as stream:
                yield stream

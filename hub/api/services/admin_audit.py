"""The audit trail, for AdminService."""

from tickets.hub.v1 import admin_service_pb2

from hub.api import convert
from hub.api.audit_entries import entry_message
from hub.api.paging import Pages, Room
from hub.control.audit import TrailFilter
from hub.control.registry import Registry
from hub.control.transactions import COMMAND_LINE
from hub.errors import InvalidRequest
from hub.permissions import SERVICES
from hub.slices import one_by_one
from hub.state import decode_change
from hub.storage import Log

READ_SIZE = 200
"""Entries of the audit trail read at once."""

MAX_READ = 2_000
"""The most entries of the audit trail that one call reads; a call that reaches it returns a short page and a token."""

AT_ONCE = 10
"""Entries that are compared and converted before other tasks run: a change of many fields takes a millisecond."""

METHODS = {COMMAND_LINE.method} | {
    spelling
    for service in SERVICES
    for method in service.methods
    for spelling in (method.name, f"{service.name}/{method.name}")
}
"""The methods that make changes, with and without the name of their service."""


class AuditTrail:
    """Lists changes, the newest first."""

    def __init__(self, log: Log, registry: Registry, pages: Pages) -> None:
        self._log = log
        self._registry = registry
        self._pages = pages

    async def page(
        self, request: admin_service_pb2.ListAuditEntriesRequest
    ) -> admin_service_pb2.ListAuditEntriesResponse:
        """A page of the requested changes."""
        wanted, name = self._filter(request), _filter_name(request)
        after = self._pages.after(request.page_token, "audit", name)
        before = int(after[0]) if after else self._registry.through + 1
        found, before = await self._read(wanted, before, self._pages.room(request))
        token = self._pages.token([before], "audit", name) if before else ""
        return admin_service_pb2.ListAuditEntriesResponse(entries=found, next_page_token=token)

    def _filter(self, request: admin_service_pb2.ListAuditEntriesRequest) -> TrailFilter:
        owner = ""
        if request.integration_id:
            owner = self._registry.integration(request.integration_id).record.owner_user_id
        if request.method and request.method not in METHODS:
            raise InvalidRequest.field(
                "method", f"has an unknown method '{request.method}': use a name such as SetScopes"
            )
        return TrailFilter(
            request.integration_id,
            owner,
            request.actor_key_id,
            request.acting_user_id,
            request.method,
            convert.optional_micros(request, "start_time"),
            convert.optional_micros(request, "end_time"),
        )

    async def _read(
        self, wanted: TrailFilter, before: int, room: Room
    ) -> tuple[list[admin_service_pb2.AuditEntry], int]:
        """The changes before a position that pass a filter, newest first, and where to go on; 0 = there are no more."""
        found: list[admin_service_pb2.AuditEntry] = []
        for _ in range(MAX_READ // READ_SIZE):
            page = await self._log.history(before, READ_SIZE)
            async for entry in one_by_one(page.entries, AT_ONCE):
                if entry.time < wanted.start:
                    return found, 0
                change = decode_change(entry.body)
                if not wanted.passes(entry, change):
                    continue
                shown = entry_message(entry, change, self._registry)
                if not room.takes(shown):
                    return found, before
                found.append(shown)
                before = entry.position
            before = page.through
            if not before:
                break
        return found, before


def _filter_name(request: admin_service_pb2.ListAuditEntriesRequest) -> str:
    """The filter of a request as text: a page token holds for the filter that it was made with."""
    copy = admin_service_pb2.ListAuditEntriesRequest()
    copy.CopyFrom(request)
    copy.ClearField("page_size")
    copy.ClearField("page_token")
    return copy.SerializeToString(deterministic=True).hex()

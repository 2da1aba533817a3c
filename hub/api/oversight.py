"""The part of AdminService that looks: the audit trail, who reads, the blocklist, what is granted and not needed."""

import msgspec
from tickets.hub.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    developer_service_pb2,
    directory_service_pb2,
    event_service_pb2,
)

from hub.api import convert
from hub.api.access import caller
from hub.api.failures import Context
from hub.api.listing import SubscriptionList
from hub.api.paging import Pages
from hub.clock import Clock
from hub.control import reports
from hub.control.changes import COMMAND_LINE, Changes
from hub.control.registry import Registry
from hub.errors import InvalidRequest
from hub.model import BlockRecord, Change, Entry
from hub.storage import Log

LOOK_AT_ONCE = 200
"""Entries of the audit trail read in one go."""

LOOK = 2_000
"""Entries of the audit trail that one call looks through at most; then the page is short, and says where to go on."""

METHODS = {COMMAND_LINE.method} | {
    spelling
    for file in (admin_service_pb2, developer_service_pb2, directory_service_pb2, event_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    for spelling in (method.name, f"{service.name}/{method.name}")
}
"""By which a change may have been made, each with its service and without."""

_change = msgspec.json.Decoder(Change)


class Oversight(admin_service_pb2_grpc.AdminServiceServicer):
    """What admins look at, and whom they block."""

    def __init__(  # noqa: PLR0913  the parts that it puts together
        self, log: Log, registry: Registry, changes: Changes, shown: SubscriptionList, pages: Pages, clock: Clock
    ) -> None:
        self._log = log
        self._registry = registry
        self._changes = changes
        self._shown = shown
        self._pages = pages
        self._clock = clock

    async def BlockDeveloper(  # noqa: N802  the contract's names
        self, request: admin_service_pb2.BlockDeveloperRequest, context: Context
    ) -> admin_service_pb2.BlockDeveloperResponse:
        """All that a developer owns is closed."""
        del context
        await self._changes.block(caller(), [self._block(request)])
        return admin_service_pb2.BlockDeveloperResponse(developer=self._blocked(request.user_id))

    async def BatchBlockDevelopers(  # noqa: N802
        self, request: admin_service_pb2.BatchBlockDevelopersRequest, context: Context
    ) -> admin_service_pb2.BatchBlockDevelopersResponse:
        """The import of a blocklist."""
        del context
        named: set[str] = set()
        for index, block in enumerate(request.requests):
            if block.user_id in named:
                raise InvalidRequest.field(f"requests[{index}].user_id", "is named twice: name each user once")
            named.add(block.user_id)
        await self._changes.block(caller(), [self._block(block) for block in request.requests])
        return admin_service_pb2.BatchBlockDevelopersResponse(
            developers=[self._blocked(block.user_id) for block in request.requests]
        )

    async def UnblockDeveloper(  # noqa: N802
        self, request: admin_service_pb2.UnblockDeveloperRequest, context: Context
    ) -> admin_service_pb2.UnblockDeveloperResponse:
        """All is as it was before the block."""
        del context
        held = self._registry.blocks.get(request.user_id)
        if held is not None and held.record.blocked:
            ended = msgspec.structs.replace(held.record, blocked=False, reason=request.reason)
            await self._changes.block(caller(), [ended])
        return admin_service_pb2.UnblockDeveloperResponse()

    async def ListBlockedDevelopers(  # noqa: N802
        self, request: admin_service_pb2.ListBlockedDevelopersRequest, context: Context
    ) -> admin_service_pb2.ListBlockedDevelopersResponse:
        """Who is blocked."""
        del context
        size = self._pages.size(request.page_size)
        after = self._pages.after(request.page_token, "blocked")
        users = sorted(user for user in self._registry.blocks if self._registry.is_blocked(user))
        rest = [user for user in users if not after or user > str(after[0])]
        token = self._pages.token([rest[size - 1]], "blocked") if len(rest) > size else ""
        return admin_service_pb2.ListBlockedDevelopersResponse(
            developers=[self._blocked(user) for user in rest[:size]], next_page_token=token
        )

    async def GetPrivilegeReport(  # noqa: N802
        self, request: admin_service_pb2.GetPrivilegeReportRequest, context: Context
    ) -> admin_service_pb2.GetPrivilegeReportResponse:
        """What is granted and not needed."""
        del context
        if request.integration_id:
            self._registry.integration(request.integration_id)
        size = self._pages.size(request.page_size)
        after = self._pages.after(request.page_token, "report", request.integration_id)
        findings = reports.privileges(self._registry, self._clock.now(), request.integration_id)
        rest = [finding for finding in findings if not after or finding.place > tuple(after)]
        token = self._pages.token(rest[size - 1].place, "report", request.integration_id) if len(rest) > size else ""
        return admin_service_pb2.GetPrivilegeReportResponse(
            findings=[convert.finding(finding) for finding in rest[:size]], next_page_token=token
        )

    async def ListSubscriptions(  # noqa: N802
        self, request: admin_service_pb2.ListSubscriptionsRequest, context: Context
    ) -> admin_service_pb2.ListSubscriptionsResponse:
        """Who reads, and how far behind."""
        del context
        if request.integration_id:
            self._registry.integration(request.integration_id)
            return admin_service_pb2.ListSubscriptionsResponse(
                subscriptions=await self._shown.of_integration(request.integration_id)
            )
        size = self._pages.size(request.page_size)
        after = self._pages.after(request.page_token, "subscriptions")
        found = await self._shown.after((str(after[0]), str(after[1])) if after else ("", ""), size + 1)
        page = found[:size]
        more = len(found) > size
        last = (page[-1].integration_id, page[-1].subscription_id) if more else ()
        return admin_service_pb2.ListSubscriptionsResponse(
            subscriptions=page, next_page_token=self._pages.token(last, "subscriptions") if more else ""
        )

    async def ListAuditEntries(  # noqa: N802
        self, request: admin_service_pb2.ListAuditEntriesRequest, context: Context
    ) -> admin_service_pb2.ListAuditEntriesResponse:
        """Who changed what, the newest first."""
        del context
        owner = ""
        if request.integration_id:
            owner = self._registry.integration(request.integration_id).record.owner_user_id
        if request.method and request.method not in METHODS:
            raise InvalidRequest.field("method", f"knows no '{request.method}': use a name such as SetScopes")
        test = AuditTest(request, owner)
        after = self._pages.after(request.page_token, "audit", test.text)
        before = int(after[0]) if after else self._registry.through + 1
        size, looked = self._pages.size(request.page_size), 0
        found: list[admin_service_pb2.AuditEntry] = []
        while before and len(found) < size and looked < LOOK:
            page = await self._log.history(before, LOOK_AT_ONCE)
            looked += LOOK_AT_ONCE
            recent = [entry for entry in page.entries if entry.time >= test.start]
            before = page.through if len(recent) == len(page.entries) else 0
            passing = [entry for entry in recent if test.passes(entry, _change.decode(entry.body))]
            taken = passing[: size - len(found)]
            found += [convert.audit_entry(entry, _change.decode(entry.body)) for entry in taken]
            if len(taken) < len(passing):
                before = taken[-1].position
        token = self._pages.token([before], "audit", test.text) if before else ""
        return admin_service_pb2.ListAuditEntriesResponse(entries=found, next_page_token=token)

    def _block(self, request: admin_service_pb2.BlockDeveloperRequest) -> BlockRecord:
        """The block asked for; somebody who is blocked already stays so since the first time."""
        held = self._registry.blocks.get(request.user_id)
        since = held.record.block_time if held is not None and held.record.blocked else self._clock.now()
        return BlockRecord(request.user_id, request.source, request.reason, since)

    def _blocked(self, user_id: str) -> admin_service_pb2.BlockedDeveloper:
        record = self._registry.blocks[user_id].record
        return admin_service_pb2.BlockedDeveloper(
            user_id=record.user_id,
            source=record.source,
            reason=record.reason,
            block_time=convert.timestamp(record.block_time),
            integration_ids=self._registry.owned_by(user_id),
        )


class AuditTest:
    """What a request for audit entries asks for. `text`: its filter, for page tokens; `start`: microseconds.

    A block closes all that a developer owns, without an entry of its own for each: so the trail of an integration has
    the blocks of its `owner`.
    """

    def __init__(self, request: admin_service_pb2.ListAuditEntriesRequest, owner: str) -> None:
        self._asked = request
        self._block = f"block/{owner}" if owner else ""
        self.start = convert.micros(request.start_time, "start_time") if request.HasField("start_time") else 0
        self._end = convert.micros(request.end_time, "end_time") if request.HasField("end_time") else 0
        copy = admin_service_pb2.ListAuditEntriesRequest()
        copy.CopyFrom(request)
        copy.ClearField("page_size")
        copy.ClearField("page_token")
        self.text = copy.SerializeToString(deterministic=True).hex()

    def passes(self, entry: Entry, change: Change) -> bool:
        """Whether a change is one of those that were asked for."""
        asked = self._asked
        return (
            (asked.integration_id in ("", convert.integration_of(entry)) or entry.key == self._block)
            and asked.actor_key_id in ("", change.actor.key_id)
            and asked.acting_user_id in ("", change.actor.user_id)
            and asked.method in ("", change.method, change.method.partition("/")[2])
            and self.start <= entry.time
            and (not self._end or entry.time < self._end)
        )

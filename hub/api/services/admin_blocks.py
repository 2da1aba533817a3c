"""The blocklist, for AdminService."""

from msgspec.structs import replace
from tickets.hub.v1 import admin_service_pb2

from hub.api import convert
from hub.api.access import caller
from hub.api.paging import Pages
from hub.clock import Clock
from hub.control.registry import Registry
from hub.control.transactions import Changes
from hub.errors import InvalidRequest
from hub.model import BlockRecord


class Blocks:
    """Blocks developers, ends blocks, and lists them."""

    def __init__(self, registry: Registry, changes: Changes, pages: Pages, clock: Clock) -> None:
        self._registry = registry
        self._changes = changes
        self._pages = pages
        self._clock = clock

    async def block(self, request: admin_service_pb2.BlockDeveloperRequest) -> admin_service_pb2.BlockDeveloperResponse:
        """Block one developer."""
        await self._changes.set_blocks(caller(), lambda: [self._record(request)])
        return admin_service_pb2.BlockDeveloperResponse(developer=self._show(request.user_id))

    async def batch_block(
        self, request: admin_service_pb2.BatchBlockDevelopersRequest
    ) -> admin_service_pb2.BatchBlockDevelopersResponse:
        """Block several developers, all or none."""
        named: set[str] = set()
        for index, block in enumerate(request.requests):
            if block.user_id in named:
                raise InvalidRequest.field(f"requests[{index}].user_id", "is named twice: name each user once")
            named.add(block.user_id)
        await self._changes.set_blocks(caller(), lambda: [self._record(block) for block in request.requests])
        return admin_service_pb2.BatchBlockDevelopersResponse(
            developers=[self._show(block.user_id) for block in request.requests]
        )

    async def unblock(
        self, request: admin_service_pb2.UnblockDeveloperRequest
    ) -> admin_service_pb2.UnblockDeveloperResponse:
        """End a block; of a user who is not blocked, nothing changes."""
        await self._changes.set_blocks(caller(), lambda: self._ended(request))
        return admin_service_pb2.UnblockDeveloperResponse()

    async def page(
        self, request: admin_service_pb2.ListBlockedDevelopersRequest
    ) -> admin_service_pb2.ListBlockedDevelopersResponse:
        """A page of blocked developers, by id."""
        after = self._pages.after(request.page_token, "blocked")
        found = self._pages.scans.walk(self._registry.blocklist.after, str, str(after[0]) if after else None)
        page, token = await self._pages.page(found, self._show, lambda user: [user], request, "blocked")
        return admin_service_pb2.ListBlockedDevelopersResponse(developers=page, next_page_token=token)

    def _record(self, request: admin_service_pb2.BlockDeveloperRequest) -> BlockRecord:
        """The requested block; a user who is blocked already keeps the block time."""
        block = self._registry.blocklist.block_of(request.user_id)
        since = block.block_time if block is not None else self._clock.now()
        return BlockRecord(request.user_id, request.source, request.reason, since)

    def _ended(self, request: admin_service_pb2.UnblockDeveloperRequest) -> list[BlockRecord]:
        """The block of a user, ended; none if the user is not blocked."""
        block = self._registry.blocklist.block_of(request.user_id)
        if block is None:
            return []
        return [replace(block, blocked=False, reason=request.reason, block_time=self._clock.now())]

    def _show(self, user_id: str) -> admin_service_pb2.BlockedDeveloper:
        record = self._registry.blocklist.last_record(user_id)
        if record is None:
            raise LookupError(user_id)
        return admin_service_pb2.BlockedDeveloper(
            user_id=record.user_id,
            source=record.source,
            reason=record.reason,
            block_time=convert.timestamp(record.block_time),
            integration_ids=self._registry.catalog.owned_by(user_id),
        )

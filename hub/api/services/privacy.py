"""PrivacyService: erasures of users and guilds, and what the hub keeps about them."""

from typing import Protocol

from tickets.hub.v1 import permissions_pb2, privacy_service_pb2, privacy_service_pb2_grpc

from hub.api import convert
from hub.api.access import caller
from hub.api.paging import Pages, Room
from hub.api.status import Context
from hub.control.integrations import Integrations
from hub.control.registry import Registry
from hub.delivery.encoding import masked
from hub.delivery.view import FieldMask
from hub.errors import InvalidRequest, NotSubject
from hub.model import Caller, Role
from hub.privacy.exports import LIST, NamingRecord, SubjectExports
from hub.privacy.lookups import Disclosure, Lookups
from hub.privacy.requests import ErasureRequests
from hub.privacy_model import ErasureRecord, ErasureState
from hub.subjects import Subject, SubjectKind

MAX_LOOKS = 50
"""How often one ExportSubject searches the log at most; then it returns a short page and a token."""
EVENTS, RECORDS = "events", "records"
"""The two parts of an export, in their order."""


class _SubjectRequest(Protocol):
    """A request about a user or a guild."""

    acting_user_id: str


class PrivacyService(privacy_service_pb2_grpc.PrivacyServiceServicer):
    """The contract's PrivacyService."""

    def __init__(  # noqa: PLR0913  the parts that it puts together
        self,
        registry: Registry,
        requests: ErasureRequests,
        lookups: Lookups,
        exports: SubjectExports,
        integrations: Integrations,
        pages: Pages,
    ) -> None:
        self._erasures = registry.hidden.erasures
        self._registry = registry
        self._requests = requests
        self._lookups = lookups
        self._exports = exports
        self._integrations = integrations
        self._pages = pages

    async def EraseUser(
        self, request: privacy_service_pb2.EraseUserRequest, context: Context
    ) -> privacy_service_pb2.EraseUserResponse:
        """Erase a user."""
        record = await self._erase(request, user(request.user_id), request.request_id, request.reason)
        return privacy_service_pb2.EraseUserResponse(erasure=self._erasure(record))

    async def EraseGuild(
        self, request: privacy_service_pb2.EraseGuildRequest, context: Context
    ) -> privacy_service_pb2.EraseGuildResponse:
        """Erase a guild."""
        record = await self._erase(request, guild(request.guild_id), request.request_id, request.reason)
        return privacy_service_pb2.EraseGuildResponse(erasure=self._erasure(record))

    async def GetErasure(
        self, request: privacy_service_pb2.GetErasureRequest, context: Context
    ) -> privacy_service_pb2.GetErasureResponse:
        """Return one erasure."""
        record = self._erasures.require(request.erasure_id).record
        return privacy_service_pb2.GetErasureResponse(erasure=self._erasure(record))

    async def ListErasures(
        self, request: privacy_service_pb2.ListErasuresRequest, context: Context
    ) -> privacy_service_pb2.ListErasuresResponse:
        """List all erasures, the oldest first."""
        after = self._pages.after(request.page_token, "erasures")
        found = self._pages.scans.walk(self._erasures.after, place, int(after[0]) if after else None)
        page, token = await self._pages.page(found, self._erasure, lambda one: [place(one)], request, "erasures")
        return privacy_service_pb2.ListErasuresResponse(erasures=page, next_page_token=token)

    async def ListDisclosures(
        self, request: privacy_service_pb2.ListDisclosuresRequest, context: Context
    ) -> privacy_service_pb2.ListDisclosuresResponse:
        """List which integrations received events about a subject."""
        subject = subject_of(request)
        acting(request, subject)
        listing = ("disclosures", subject.kind, str(subject.id))
        after = self._pages.after(request.page_token, *listing)
        at, room = int(after[0]) if after else 0, self._pages.room(request)
        found = await self._lookups.disclosures(subject)
        page: list[privacy_service_pb2.Disclosure] = []
        for one in found[at:]:
            shown = self._disclosure(one)
            if not room.takes(shown):
                break
            page.append(shown)
        at += len(page)
        token = self._pages.token([at], *listing) if at < len(found) else ""
        return privacy_service_pb2.ListDisclosuresResponse(disclosures=page, next_page_token=token)

    def _disclosure(self, disclosure: Disclosure) -> privacy_service_pb2.Disclosure:
        """What one integration was sent, as a message."""
        integration_id, what, is_confirmed = disclosure
        known = self._registry.integrations.get(integration_id)
        return privacy_service_pb2.Disclosure(
            integration_id=integration_id,
            display_name=known.record.display_name if known is not None else "",
            scopes=[permissions_pb2.Scope.ValueType(scope) for scope in what.scopes],
            fields=what.fields,
            event_count=what.events,
            first_time=convert.timestamp(what.first_time),
            last_time=convert.timestamp(what.last_time),
            by=privacy_service_pb2.DisclosureChannel.ValueType(what.by),
            confirmed=is_confirmed,
        )

    async def ExportSubject(
        self, request: privacy_service_pb2.ExportSubjectRequest, context: Context
    ) -> privacy_service_pb2.ExportSubjectResponse:
        """List the events and the records that the hub holds about a subject."""
        subject = subject_of(request)
        acting(request, subject)
        listing = ("held about", subject.kind, str(subject.id))
        place = self._pages.after(request.page_token, *listing) or [EVENTS, 0]
        part, at, room = str(place[0]), int(place[1]), self._pages.room(request)
        reply = privacy_service_pb2.ExportSubjectResponse()
        for _ in range(MAX_LOOKS):
            self._pages.scans.charge(LIST)
            if part == EVENTS:
                at, is_full = await self._export_events(subject, at, room, reply)
                if not at:
                    part, at = RECORDS, self._registry.through + 1
            else:
                at, is_full = await self._export_records(subject, at, room, reply)
                if not at:
                    return reply
            if is_full:
                break
        reply.next_page_token = self._pages.token([part, at], *listing)
        return reply

    async def _export_events(
        self, subject: Subject, at: int, room: Room, reply: privacy_service_pb2.ExportSubjectResponse
    ) -> tuple[int, bool]:
        """Add the next events after a position; returns where to go on (0 = the end), and whether the page is full."""
        found = await self._exports.events(at, subject)
        for entry in found.events:
            event = masked(entry, FieldMask(entry.event_type, frozenset()))
            if not room.takes(event):
                return at, True
            reply.events.append(event)
            at = entry.position
        return found.through, False

    async def _export_records(
        self, subject: Subject, before: int, room: Room, reply: privacy_service_pb2.ExportSubjectResponse
    ) -> tuple[int, bool]:
        """Add the next records before a position, as `_export_events`."""
        found = await self._exports.records(before, subject)
        for record in found.records:
            shown = naming_record(record)
            if not room.takes(shown):
                return before, True
            reply.records.append(shown)
            before = record.position
        return found.before, False

    async def _erase(self, request: _SubjectRequest, subject: Subject, request_id: str, reason: str) -> ErasureRecord:
        by = acting(request, subject)
        self._integrations.charge(by)
        return await self._requests.erase(by, subject, request_id, reason)

    def _erasure(self, record: ErasureRecord) -> privacy_service_pb2.Erasure:
        """An erasure as a message."""
        work, is_done = self._erasures.work.get(record.erasure_id), record.state is ErasureState.DONE
        return privacy_service_pb2.Erasure(
            erasure_id=record.erasure_id,
            state=privacy_service_pb2.ErasureState.ValueType(record.state),
            events_erased=record.events,
            progress=1.0 if is_done else work.progress if work is not None else 0.0,
            notices=[
                privacy_service_pb2.ErasureNotice(
                    integration_id=notice.integration_id,
                    sent_time=convert.timestamp(notice.sent_time),
                    confirm_time=convert.timestamp(notice.confirm_time),
                )
                for notice in self._erasures.notices.of_erasure(record.erasure_id)
            ],
            request_time=convert.timestamp(record.request_time),
            complete_time=convert.timestamp(record.complete_time),
            kept_since_time=convert.timestamp(record.kept_since),
        )


def naming_record(record: NamingRecord) -> privacy_service_pb2.SubjectRecord:
    """A record that names a subject, as a message."""
    return privacy_service_pb2.SubjectRecord(
        time=convert.timestamp(record.time),
        method=record.method,
        integration_id=record.integration_id,
        guild_id=str(record.guild_id or ""),
        fields=record.fields,
    )


def subject_of(
    request: privacy_service_pb2.ExportSubjectRequest | privacy_service_pb2.ListDisclosuresRequest,
) -> Subject:
    """The user or the guild that a request names."""
    is_user = request.WhichOneof("subject") == "user_id"
    return user(request.user_id) if is_user else guild(request.guild_id)


def user(user_id: str) -> Subject:
    """A user as a subject."""
    return Subject(SubjectKind.USER, int(user_id))


def guild(guild_id: str) -> Subject:
    """A guild as a subject."""
    return Subject(SubjectKind.GUILD, int(guild_id))


def acting(request: _SubjectRequest, subject: Subject) -> Caller:
    """The caller, with the user for whom the bot speaks.

    Raises:
        InvalidRequest: the bot names no such user, or an admin names one.
        NotSubject: that user asks about another one.
    """
    by, user_id = caller(), request.acting_user_id
    if by.role is Role.ADMIN:
        if user_id:
            raise InvalidRequest.field("acting_user_id", "is for the bot: an admin cannot act for another user")
        return by
    if not user_id:
        raise InvalidRequest.field("acting_user_id", "is required when the bot speaks for somebody")
    if subject.kind is SubjectKind.USER and user_id != str(subject.id):
        raise NotSubject
    return by.on_behalf_of(user_id)


def place(record: ErasureRecord) -> int:
    """The sort key of erasures in a list."""
    return record.position

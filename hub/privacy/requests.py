"""Accepts erasures of users and guilds: from the answer on, none of their earlier events is sent."""

import secrets

import structlog

from hub.clock import Clock
from hub.config import Settings
from hub.control.registry import Registry
from hub.delivery.feed import Feed
from hub.errors import Conflict, InvalidRequest, StorageUnavailable, TooManyErasures
from hub.model import Caller, Change, Entry, Kind
from hub.privacy.erasure_file import ErasureFile
from hub.privacy_model import ErasedSubjectRecord, ErasureRecord
from hub.state import ERASED_SUBJECT, ERASURE
from hub.storage import Log
from hub.subjects import Subject

ID_LENGTH = 24
OMITTED = "[omitted]"
"""Replaces the subject's id in a reason."""

log = structlog.get_logger()


class ErasureRequests:
    """Begins erasures."""

    def __init__(  # noqa: PLR0913  the parts that it puts together
        self, store: Log, registry: Registry, feed: Feed, file: ErasureFile, settings: Settings, clock: Clock
    ) -> None:
        self._store = store
        self._file = file
        self._registry = registry
        self._feed = feed
        self._limit = settings.max_erasures
        self._clock = clock

    async def erase(self, by: Caller, subject: Subject, request_id: str, reason: str) -> ErasureRecord:
        """Begin an erasure; a repeated request is the same erasure. The events are hidden when this returns.

        Args:
            by: the caller, with the user for whom the bot speaks.
            subject: the user or guild to forget.
            request_id: names the request; "" makes every call a new erasure.
            reason: for the audit trail, which keeps it without the id of the subject.

        Raises:
            InvalidRequest: the request_id names the erasure of another subject.
            TooManyErasures: the limit of unfinished erasures is reached.
            StorageFull, StorageUnavailable: the erasure may have begun, but is not in the list for stores that are
                restored; repeat the same request.
        """
        erasures = self._registry.hidden.erasures
        erasure_id = self._id_of(by, request_id)
        if erasure_id not in erasures.records:
            self._require_room()
            await self._append(by, erasure_id, subject, reason.replace(str(subject.id), OMITTED))
        record = erasures.require(erasure_id).record
        await self._file.keep([record])
        if record.digest != erasures.keys.digest(subject, record.check):
            raise InvalidRequest.field("request_id", "was used for another subject: use a new id for each request")
        return record

    def _id_of(self, by: Caller, request_id: str) -> str:
        """The id of an erasure: always the same for a caller's request id, which it does not reveal."""
        if not request_id:
            return secrets.token_hex(ID_LENGTH // 2)
        return self._registry.hidden.erasures.keys.name(f"{by.role.name}/{request_id}")[:ID_LENGTH]

    async def _append(self, by: Caller, erasure_id: str, subject: Subject, reason: str) -> None:
        """Store the erasure and its sealed subject; if the same request was stored first, that one counts."""
        keys, key = self._registry.hidden.erasures.keys, ERASURE.key(erasure_id)
        now = self._clock.now()
        record = ErasureRecord(erasure_id, keys.digest(subject), keys.check, now, self._feed.earliest.time)
        # A user who asks for their own erasure is the subject, and state is kept: it must not name them.
        actor = (by.on_behalf_of("") if by.user_id == str(subject.id) else by).actor
        change = Change(actor, by.method, reason=reason, request_id=by.request_id)
        sealed = ErasedSubjectRecord(keys.seal(subject, erasure_id))
        entries = [
            Entry(Kind.STATE, now, ERASURE.encode(change, record), key=key),
            ERASED_SUBJECT.entry(ERASED_SUBJECT.key(erasure_id), now, sealed),
        ]
        try:
            position = (await self._store.append(entries, {key: 0}))[-1].position
        except Conflict:
            position = (await self._store.bounds()).last
        else:
            log.info("erasure requested", erasure_id=erasure_id, method=by.method)
        await self._registry.wait_applied(position)
        if erasure_id not in self._registry.hidden.erasures.records:
            raise StorageUnavailable

    def _require_room(self) -> None:
        if self._registry.hidden.erasures.count_unfinished() >= self._limit:
            raise TooManyErasures(
                f"{self._limit} erasures are unfinished, which is the limit: repeat the request once some are done",
                metadata={"limit": str(self._limit)},
                retry_after=30,
            )

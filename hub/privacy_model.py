"""Records about guilds that do not share their events, and about erasures; continues ``model.py``."""

from enum import IntEnum

import msgspec


class GuildSharing(IntEnum):
    """Whether a guild's events are delivered to anybody, with the numbers of ``enum GuildSharing``."""

    OFF = 1
    ON = 2


class ErasureState(IntEnum):
    """The state of an erasure, with the numbers of ``enum ErasureState``."""

    HIDDEN = 1
    ERASING = 2
    DONE = 3


class SharingRecord(msgspec.Struct, frozen=True):
    """Whether a guild's events are delivered to anybody from this entry on, and which user decided it."""

    guild_id: int
    sharing: GuildSharing
    acting_user_id: str


class ErasureRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """An erasure of a user or a guild. It does not name the subject, because this record is kept.

    Attributes:
        digest: a keyed digest of the subject, in hex; it covers the events before this erasure.
        check: of the hub's secret that the digest is made with.
        state: its state.
        request_time, complete_time: microseconds; 0 = not yet.
        kept_since: when the oldest event was accepted that the hub still had.
        position: of its first entry; 0 in an entry stands for that entry's own position.
        events: how many events there were; known from ERASING on.
    """

    erasure_id: str
    digest: str
    check: str
    request_time: int
    kept_since: int
    state: ErasureState = ErasureState.HIDDEN
    position: int = 0
    events: int = 0
    complete_time: int = 0


class ErasedSubjectRecord(msgspec.Struct, frozen=True):
    """The subject of an erasure, sealed under the hub's secret; deleted once no integration needs it any more."""

    sealed: str


class ErasureWorkRecord(msgspec.Struct, frozen=True):
    """The hub that works on an erasure, and its progress, from 0 to 1."""

    worker: str
    progress: float


class SentView(msgspec.Struct, frozen=True, omit_defaults=True):
    """The view under which events were sent.

    Attributes:
        scopes, guilds, shard: as of a projection.
        by_consent: whether scopes counted for each guild by what it had agreed to at that position.
        as_of: the position through which installations, exclusions and sharing are to be read.
    """

    scopes: tuple[int, ...]
    guilds: tuple[int, ...] = ()
    shard: tuple[int, int] | None = None
    by_consent: bool = False
    as_of: int = 0


class SentInterval(msgspec.Struct, frozen=True, array_like=True):
    """The positions after one and through another, and the index of the view by which their events were sent."""

    after: int
    through: int
    view: int


class SentRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The events that a subscription was sent, as intervals of positions. A restored log still holds those positions.

    Attributes:
        open_after: while a stream is open, the position up to which the intervals are complete; -1: none is.
        open_view: the index of the view that the stream had then.
        open_at: which run of a hub has the stream; "" for an older hub.
    """

    views: tuple[SentView, ...] = ()
    intervals: tuple[SentInterval, ...] = ()
    open_after: int = -1
    open_view: int = 0
    open_at: str = ""

    @property
    def open_as(self) -> SentView:
        """The view that the open stream had."""
        return self.views[self.open_view]


class Channel(IntEnum):
    """How events were sent, with the numbers of ``enum DisclosureChannel``."""

    STREAM = 1
    WEBHOOK = 2


class DisclosureRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an integration was sent about a subject by one channel.

    Attributes:
        by: the channel.
        events: how many events.
        first_time, last_time: when the first and the last of them were accepted, in microseconds.
        scopes: by which they were delivered.
        fields: exactly what of them: "ticket_created.creator_user_id".
    """

    by: Channel
    events: int
    first_time: int
    last_time: int
    scopes: tuple[int, ...] = ()
    fields: tuple[str, ...] = ()


class NoticeRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The notice to an integration to forget the subject of an erasure, and what it was sent about the subject.

    Attributes:
        erasure_id, integration_id: the erasure, and the integration that must forget.
        disclosures: what the integration was sent; deleted after 30 days.
        sent_time: when the notice was first sent; 0 = not yet.
        confirm_time: when the integration committed something after that; 0 = not yet.
        position: from which cursor on a commit counts; 0 in an entry stands for its own position.
    """

    erasure_id: str
    integration_id: str
    disclosures: tuple[DisclosureRecord, ...] = ()
    sent_time: int = 0
    confirm_time: int = 0
    position: int = 0

"""The values that every package uses: frozen, and independent of the rest of the hub.

Times are whole microseconds since 1970 in UTC, positions are integers from 1, 0 stands for "before everything".
Records (``*Record``) are what state entries of the log hold, as JSON (``state.py``); a field added later needs a
default.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple

import msgspec


class Kind(IntEnum):
    """The kinds of entries in the log."""

    EVENT = 1
    STATE = 2
    ERASED = 3
    DAMAGED = 4
    """Never stored: an entry that the store returns altered, or not at all."""


class Cursor(NamedTuple):
    """A position in the log of `epoch`, reached at `time` (microseconds). A stream resumes with the entry after it."""

    epoch: int
    position: int
    time: int


class Role(IntEnum):
    """The kinds of caller, with the numbers of ``enum Role`` in the contract. SYSTEM is the hub itself."""

    SYSTEM = 0
    BOT = 1
    INTEGRATION = 2
    ADMIN = 3


class State(IntEnum):
    """The state of an integration, with the numbers of ``enum IntegrationState``."""

    PENDING = 1
    ACTIVE = 2
    SUSPENDED = 3
    REJECTED = 4
    DELETED = 5


class GuildAccess(IntEnum):
    """From which guilds an integration gets events, with the numbers of ``enum GuildAccess``."""

    ALL = 1
    INSTALLED = 2


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry of the log.

    Attributes:
        kind: event, state, or what remains of an erased event.
        key: names what a STATE entry is the newest state of ("integration/x7"); "" for events.
        id: names an EVENT within the dedupe window; "" for state.
        event_type: the number of the payload's field in ``Event``; 0 for state.
        guild_id: the guild of an event; 0 for state.
        time: when it was accepted; never less than that of the entry before.
        body: a serialised ``Event`` without its accept time, or a record as JSON.
        position: its place, given by the log; 0 until then.
    """

    kind: Kind
    time: int
    body: bytes
    key: str = ""
    id: str = ""
    event_type: int = 0
    guild_id: int = 0
    position: int = 0


class Appended(msgspec.Struct, frozen=True, gc=False):
    """The position and accept time of an entry; those of the first one for a duplicate.

    `conflict`: it was not stored, because its id names an event with another body, the one at `position`.
    """

    position: int
    time: int
    duplicate: bool = False
    conflict: bool = False


class Page(msgspec.Struct, frozen=True):
    """Some entries of the log, in order; up to `through` none of the requested ones is missing."""

    entries: tuple[Entry, ...]
    through: int


class Bounds(msgspec.Struct, frozen=True):
    """The log's extent: which log (`epoch`), its oldest position that was not trimmed away, its newest position."""

    epoch: int
    first: int
    last: int


class Actor(msgspec.Struct, frozen=True, omit_defaults=True):
    """The author of a change: the role and id of the key, and the Discord user for whom the bot speaks."""

    role: Role = Role.SYSTEM
    key_id: str = ""
    user_id: str = ""


class Caller(msgspec.Struct, frozen=True):
    """The caller of one call: its key, its method, its address. Bound to every change and log line of the call.

    Attributes:
        integration_id: whose key it is; "" for service keys.
        method: "AdminService/SetScopes".
        request_id: names the call in the hub's log.
        peer: the address that the call came from.
    """

    role: Role
    key_id: str
    integration_id: str
    method: str
    request_id: str
    user_id: str = ""
    peer: str = ""

    @property
    def actor(self) -> Actor:
        """The caller as the audit trail keeps it."""
        return Actor(self.role, self.key_id, self.user_id)

    def on_behalf_of(self, user_id: str) -> "Caller":
        """The same caller, speaking for a Discord user."""
        return msgspec.structs.replace(self, user_id=user_id)


class KeyRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A key without its secret. `digest`: HMAC-SHA256 of the key under the hub's secret, in hex; 0 = no such time."""

    key_id: str
    role: Role
    digest: str
    create_time: int
    expire_time: int = 0
    revoke_time: int = 0
    display_name: str = ""


class GrantRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A granted scope. `position`: it covers the events after it; 0 in an entry means the entry's own position."""

    scope: int
    justification: str
    grant_time: int
    grantor: str
    position: int = 0


class ScopeRequestRecord(msgspec.Struct, frozen=True):
    """A requested scope, and the reason for it."""

    scope: int
    justification: str


class IntegrationRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """An integration; key use, installations, cursors and claims have their own records.

    `all_guilds_from`: where guild access is ALL, events after this position come from every guild, those before it from
    guilds that had installed it; -1 in an entry stands for that entry's own position. `refused_scopes`: what the last
    decision about scopes asked for turned down, with its reason.
    """

    integration_id: str
    display_name: str
    description: str
    owner_user_id: str
    documentation_url: str
    support_url: str
    create_time: int
    update_time: int
    state: State
    endpoint_url: str = ""
    guild_access: GuildAccess = GuildAccess.ALL
    state_reason: str = ""
    grants: tuple[GrantRecord, ...] = ()
    requested_scopes: tuple[ScopeRequestRecord, ...] = ()
    keys: tuple[KeyRecord, ...] = ()
    rules_version: str = ""
    active_time: int = 0
    scopes_time: int = 0
    all_guilds_from: int = 0
    refused_scopes: tuple[int, ...] = ()
    refusal_reason: str = ""
    refusal_time: int = 0
    resume_time: int = 0


class BlockRecord(msgspec.Struct, frozen=True):
    """A block of a developer: since when, by whom and why. If not `blocked`, the time at which the block ended."""

    user_id: str
    source: str
    reason: str
    block_time: int
    blocked: bool = True


class AgreedScope(msgspec.Struct, frozen=True, omit_defaults=True):
    """A scope that a guild agreed to. `position`: it covers the events after it; 0 means the entry's own position."""

    scope: int
    position: int = 0


class InstallationRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a guild agreed to, and which user acted for it; not `installed`: it was uninstalled.

    Attributes:
        excluded: nothing of the guild is delivered to the integration, whatever its guild access.
        counts_from: events after this position are delivered again after an exclusion; -1 in an entry stands for that
            entry's own position.
    """

    integration_id: str
    guild_id: int
    acting_user_id: str
    install_time: int
    agree_time: int
    agreed: tuple[AgreedScope, ...] = ()
    installed: bool = True
    excluded: bool = False
    counts_from: int = 0


class ServiceRecord(msgspec.Struct, frozen=True):
    """The keys of bots and admins: one record, so that "not the last admin key" can be held."""

    keys: tuple[KeyRecord, ...] = ()


class EarlierSecret(msgspec.Struct, frozen=True):
    """A secret of the hub that was rotated away at `rotate_time`, sealed under the one in force."""

    sealed: bytes
    rotate_time: int


class SecretRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The secret in force, by a digest that reveals nothing of it, and the earlier ones, the newest first."""

    check: str
    earlier: tuple[EarlierSecret, ...] = ()


class ClaimRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The stream that owns a subscription, and its position. The newest claim wins, on every replica.

    The same stream writes its claim again as it goes on, and when it ends. `epoch`, `position` and `time` are the
    cursor of the last frame that was delivered; 0 in an entry stands for this log, the entry itself and its time.

    Attributes:
        seen_time: when the stream was last open; 0 in an entry stands for the time of the entry.
        end_reason: why the stream ended: a reason of the contract, or DISCONNECTED; "" while it is open.
    """

    stream_id: str
    seen_time: int = 0
    end_reason: str = ""
    epoch: int = 0
    position: int = 0
    time: int = 0


class OversightRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an admin did to the streams of an integration, for the audit trail.

    Attributes:
        action: "tail", "send_test_event", "end_stream" or "delete_subscription".
        subscription_id: of which subscription; "" where it concerns none.
    """

    integration_id: str
    action: str
    subscription_id: str = ""


class CursorRecord(msgspec.Struct, frozen=True):
    """The committed cursor of a subscription, and when it was committed (microseconds)."""

    epoch: int
    position: int
    time: int
    commit_time: int

    @property
    def cursor(self) -> Cursor:
        """The position that was committed."""
        return Cursor(self.epoch, self.position, self.time)


class UseRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """When a key was last used; `digest`: the key's digest, under a newer secret of the hub than that of its record."""

    last_use_time: int
    digest: str = ""


class DeliveryRecord(msgspec.Struct, frozen=True):
    """When an integration last had a stream, and when each of its scopes last delivered something to one."""

    stream_time: int
    scopes: Mapping[int, int]


class EmitterRecord(msgspec.Struct, frozen=True):
    """The number of an emitter's last event, and the time of its last batch."""

    last_sequence: int
    use_time: int


class ImportRecord(msgspec.Struct, frozen=True):
    """This log is an import of the log of `epoch`; until `done` it is incomplete."""

    epoch: int
    done: bool


class FieldChange(msgspec.Struct, frozen=True):
    """One field before and after, as JSON, without secrets; "" where it was not there."""

    field: str
    before: str
    after: str


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of an audited state entry: who changed what, by which method and why, and the record it left.

    `record` stays raw JSON, so that the audit trail can be read without knowing every kind of record.
    """

    actor: Actor
    method: str
    record: msgspec.Raw = msgspec.Raw(b"null")
    reason: str = ""
    request_id: str = ""
    changes: tuple[FieldChange, ...] = ()


Expect = Mapping[str, int]
"""State keys and the position each must still have (0: it must not be there) for an append to happen."""

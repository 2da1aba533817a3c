"""The values that every room speaks of: frozen, without behaviour that needs anything else of ours.

Times are whole microseconds since 1970 in UTC, positions are integers from 1, 0 stands for "before everything".
Records (``*Record``) are what state entries of the log hold, as JSON; a field added later needs a default.
"""

from collections.abc import Mapping
from enum import IntEnum

import msgspec


class Kind(IntEnum):
    """What an entry of the log is."""

    EVENT = 1
    STATE = 2
    ERASED = 3


class Role(IntEnum):
    """The kinds of caller, with the numbers of ``enum Role`` in the contract. SYSTEM is the hub itself."""

    SYSTEM = 0
    BOT = 1
    INTEGRATION = 2
    ADMIN = 3


class State(IntEnum):
    """Where an integration is in its life, with the numbers of ``enum IntegrationState``."""

    PENDING = 1
    ACTIVE = 2
    SUSPENDED = 3
    REJECTED = 4
    DELETED = 5


class GuildAccess(IntEnum):
    """Whose events an integration gets, with the numbers of ``enum GuildAccess``."""

    ALL = 1
    INSTALLED = 2


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One entry of the log.

    Attributes:
        kind: event, state, or what is left of an erased event.
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
    """Where an entry stands; of a duplicate, where the first one stands and when that was accepted."""

    position: int
    time: int
    duplicate: bool = False


class Page(msgspec.Struct, frozen=True):
    """A piece of the log: `entries` in order, and nothing that was asked for was left out up to `through`."""

    entries: tuple[Entry, ...]
    through: int


class Bounds(msgspec.Struct, frozen=True):
    """The log's extent: which log (`epoch`), its oldest position that was not trimmed away, its newest position."""

    epoch: int
    first: int
    last: int


class Actor(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who does something: the role and id of the key, and the Discord user for whom the bot speaks."""

    role: Role = Role.SYSTEM
    key_id: str = ""
    user_id: str = ""


class Caller(msgspec.Struct, frozen=True):
    """Who calls, by which key, and what for: bound to every change and every log line of the call.

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
        """What the audit trail keeps of it."""
        return Actor(self.role, self.key_id, self.user_id)


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
    """A scope given. `position`: events after it count; 0 in an entry stands for that entry's own position."""

    scope: int
    justification: str
    grant_time: int
    grantor: str
    position: int = 0


class ScopeRequestRecord(msgspec.Struct, frozen=True):
    """A scope asked for, and why."""

    scope: int
    justification: str


class IntegrationRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that is kept of an integration but its key use, installations, cursors and claims.

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


class BlockRecord(msgspec.Struct, frozen=True):
    """A developer who is on the blocklist, on whose word and why; not `blocked`: the block has ended."""

    user_id: str
    source: str
    reason: str
    block_time: int
    blocked: bool = True


class AgreedScope(msgspec.Struct, frozen=True, omit_defaults=True):
    """A scope that a guild agreed to. `position`: events after it count; 0 stands for that of the entry itself."""

    scope: int
    position: int = 0


class InstallationRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a guild agreed to, and who said so for it; not `installed`: it was switched off again."""

    integration_id: str
    guild_id: int
    acting_user_id: str
    install_time: int
    agree_time: int
    agreed: tuple[AgreedScope, ...] = ()
    installed: bool = True


class ServiceRecord(msgspec.Struct, frozen=True):
    """The keys of bots and admins: one record, so that "not the last admin key" can be held."""

    keys: tuple[KeyRecord, ...] = ()


class ClaimRecord(msgspec.Struct, frozen=True):
    """Which stream a subscription belongs to: the newest claim wins, on every replica."""

    stream_id: str


class CursorRecord(msgspec.Struct, frozen=True):
    """What a subscription has committed: a place in the log of `epoch`, reached at `time`, kept at `commit_time`."""

    epoch: int
    position: int
    time: int
    commit_time: int


class UseRecord(msgspec.Struct, frozen=True):
    """When a key last opened the hub."""

    last_use_time: int


class DeliveryRecord(msgspec.Struct, frozen=True):
    """When an integration last had a stream, and when each of its scopes last delivered something to one."""

    stream_time: int
    scopes: Mapping[int, int]


class ImportRecord(msgspec.Struct, frozen=True):
    """That this log is made of another one, the one of `epoch`; until it is `done` it is not all there."""

    epoch: int
    done: bool


class FieldChange(msgspec.Struct, frozen=True):
    """One field before and after, as JSON, without secrets; "" where it was not there."""

    field: str
    before: str
    after: str


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of a STATE entry: who made it so, by which method, why, what changed, and the state it left.

    `record` is kept as raw JSON: who reads the audit trail need not know every kind of record.
    """

    actor: Actor
    method: str
    record: msgspec.Raw
    reason: str = ""
    request_id: str = ""
    changes: tuple[FieldChange, ...] = ()


Expect = Mapping[str, int]
"""State keys and the position each must still have (0: it must not be there) for an append to happen."""

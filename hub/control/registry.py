"""The state, materialised from the log: every integration and key as of the last entry applied. Says who a key is.

Lives here: what the newest entry of each key amounts to. Must not know how entries are appended (``changes.py``) or who
is streaming. Everything here is synchronous: between two awaits of others, the state does not move.
"""

import asyncio
import math
from bisect import bisect_right, insort
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from hashlib import sha256
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from hub.clock import Clock
from hub.control import keys, lifecycle
from hub.control.installations import Installations
from hub.control.keys import derive
from hub.control.usage import Usage
from hub.errors import DeveloperBlocked, IntegrationNotFound, KeyExpired, KeyRevoked, KeyUnknown, StartError
from hub.model import (
    BlockRecord,
    Change,
    ClaimRecord,
    CursorRecord,
    Entry,
    ImportRecord,
    IntegrationRecord,
    KeyRecord,
    Kind,
    ServiceRecord,
)

MAX_FORGOTTEN = 100_000
"""Forgotten committed places of which the position is still known; of those before them commits are less guarded."""

SERVICE_KEY = "service"
SECRET_KEY = "secret"  # noqa: S105  the name of an entry
IMPORT_KEY = "import/log"

Record = TypeVar("Record", bound=msgspec.Struct)

_change = msgspec.json.Decoder(Change)
_integration = msgspec.json.Decoder(IntegrationRecord)
_service = msgspec.json.Decoder(ServiceRecord)
_claim = msgspec.json.Decoder(ClaimRecord)
_cursor = msgspec.json.Decoder(CursorRecord)
_block = msgspec.json.Decoder(BlockRecord)
_import = msgspec.json.Decoder(ImportRecord)


class SecretCheck(msgspec.Struct, frozen=True):
    """Shows whether a secret is the one that the store was made with, without telling anything about it."""

    check: str


class Held(NamedTuple, Generic[Record]):
    """A record, the position of the entry that holds it (0 = there is none yet), and why that entry was made."""

    record: Record
    position: int
    reason: str = ""


class Holder(NamedTuple):
    """Whose key: "" = a service key's."""

    integration_id: str
    key: KeyRecord


class Registry:
    """Who may what, right now."""

    def __init__(self, secret: bytes, clock: Clock) -> None:
        self.pepper = derive(secret, "keys", 32)
        self.through = 0
        self.service = Held(ServiceRecord(), 0)
        self.integrations: dict[str, Held[IntegrationRecord]] = {}
        self.by_age: list[tuple[int, str]] = []
        self.claims: dict[str, str] = {}
        self.cursors: dict[str, Held[CursorRecord]] = {}
        self.blocks: dict[str, Held[BlockRecord]] = {}
        self.installations = Installations()
        self.usage = Usage(clock)
        self._secret_check = derive(secret, "check", 16).hex()
        self._clock = clock
        self._owned: dict[str, set[str]] = {}
        self._keys: dict[str, Holder] = {}
        self._ends: dict[str, tuple[int, float]] = {}
        self._subscriptions: dict[str, set[str]] = {}
        self._forgotten_cursors: dict[str, int] = {}
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._apply: dict[str, Callable[[Entry], Iterable[str]]] = {
            "integration": self._apply_integration,
            SERVICE_KEY: self._apply_service,
            SECRET_KEY: self._apply_secret,
            "use": self.usage.apply,
            "installation": self.installations.apply,
            "block": self._apply_block,
            "claim": self._apply_claim,
            "cursor": self._apply_cursor,
            "import": self._apply_import,
        }

    def apply(self, entries: Iterable[Entry]) -> set[str]:
        """Take state entries in, in order; returns the ids of the integrations that they concern.

        Raises:
            StartError: the store was made with another secret, or is not all there.
        """
        self.installations.begin()
        concerned: set[str] = set()
        for entry in entries:
            if entry.kind is Kind.STATE:
                concerned.update(self._apply[entry.key.partition("/")[0]](entry))
        return concerned

    def advance(self, through: int) -> None:
        """Say that everything up to a position is in force; those who waited for it go on."""
        self.through = max(self.through, through)
        due = [future for position, future in self._waiting if position <= self.through]
        self._waiting = [waiting for waiting in self._waiting if waiting[0] > self.through]
        for future in due:
            if not future.done():
                future.set_result(None)

    async def applied(self, position: int) -> None:
        """Wait until everything up to a position is in force here."""
        if self.through < position:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append((position, future))
            await future

    def integration(self, integration_id: str) -> Held[IntegrationRecord]:
        """The newest record of an integration.

        Raises:
            IntegrationNotFound: there is none with this id.
        """
        held = self.integrations.get(integration_id)
        if held is None:
            raise IntegrationNotFound(integration_id)
        return held

    def integrations_after(
        self, place: tuple[int, str] | None, test: Callable[[IntegrationRecord], bool], limit: int
    ) -> list[Held[IntegrationRecord]]:
        """Up to `limit` integrations that pass a test, by age, after a place (creation time and id; None = start)."""
        start = bisect_right(self.by_age, place) if place else 0
        held = (self.integrations[integration_id] for _, integration_id in self.by_age[start:])
        return list(islice((one for one in held if test(one.record)), limit))

    def subscriptions(self, integration_id: str) -> list[str]:
        """The names of an integration's subscriptions, in order."""
        return sorted(self._subscriptions.get(integration_id, ()))

    def cursor_position(self, name: str) -> int:
        """The position of the newest entry of a committed place, be it that it was forgotten; 0 = none is known."""
        held = self.cursors.get(name)
        return held.position if held is not None else self._forgotten_cursors.get(name, 0)

    def owned_by(self, user_id: str) -> list[str]:
        """The ids of the integrations that a Discord user owns, in order."""
        return sorted(self._owned.get(user_id, ()))

    def is_blocked(self, user_id: str) -> bool:
        """Whether a Discord user is on the blocklist."""
        return self.block_of(user_id) is not None

    def require_open(self, integration_id: str, *, say_why: bool = True) -> IntegrationRecord:
        """The record of an integration that may receive events; `say_why`: to its developer, and to nobody else.

        Raises:
            DeveloperBlocked, IntegrationPending, IntegrationSuspended, IntegrationRejected, IntegrationDeleted: it
                may not.
        """
        record = self.integration(integration_id).record
        lifecycle.require_open(record, say_why=say_why)
        self.require_unblocked(record.owner_user_id, say_why=say_why)
        return record

    def block_of(self, user_id: str) -> BlockRecord | None:
        """The block of a Discord user; None where they are not on the blocklist."""
        held = self.blocks.get(user_id)
        return held.record if held is not None and held.record.blocked else None

    def require_unblocked(self, user_id: str, *, say_why: bool = True) -> None:
        """Check that a developer is not on the blocklist; `say_why`: to them, and to nobody else.

        Raises:
            DeveloperBlocked: they are.
        """
        block = self.block_of(user_id)
        if block is not None:
            raise DeveloperBlocked(block.source, block.reason) if say_why else DeveloperBlocked

    def authenticate(self, text: str) -> Holder:
        """Whose key this is.

        Raises:
            KeyUnknown: it is malformed or nobody's.
            KeyRevoked, KeyExpired: it was somebody's.
        """
        key_id = keys.read_id(text)
        holder = self._keys.get(key_id) if key_id else None
        if not keys.matches(text, holder.key if holder else None, self.pepper) or holder is None:
            raise KeyUnknown
        self.require_live(holder.key.key_id)
        self.usage.note_key(holder.key.key_id)
        return holder

    def require_live(self, key_id: str) -> KeyRecord:
        """The newest record of a key that once opened the hub.

        Raises:
            KeyRevoked, KeyExpired: it does so no more.
        """
        holder = self._keys.get(key_id)
        if holder is None or holder.key.revoke_time:
            raise KeyRevoked("this key was revoked: use a newer one", metadata={"key_id": key_id})
        if not self.is_live(holder.key):
            ended = datetime.fromtimestamp(holder.key.expire_time / 1_000_000, UTC).isoformat().replace("+00:00", "Z")
            raise KeyExpired(
                "this key's time is over: use a newer one", metadata={"key_id": key_id, "expire_time": ended}
            )
        return holder.key

    def is_live(self, key: KeyRecord) -> bool:
        """Whether a key opens the hub."""
        return not key.revoke_time and self.seconds_left(key) > 0

    def seconds_left(self, key: KeyRecord) -> float:
        """How long a key that was not revoked lives on; infinite if it does not expire.

        Measured by the monotonic clock from when its end was learned: a step of the wall clock moves no end.
        """
        if not key.expire_time:
            return math.inf
        known = self._ends.get(key.key_id)
        if known is None or known[0] != key.expire_time:
            left = (key.expire_time - self._clock.now()) / 1_000_000
            known = self._ends[key.key_id] = (key.expire_time, self._clock.monotonic() + left)
        return known[1] - self._clock.monotonic()

    def was_used(self, key_id: str) -> bool:
        """Whether a key ever opened the hub."""
        return key_id in self.usage.keys

    def _apply_integration(self, entry: Entry) -> tuple[str, ...]:
        change = _change.decode(entry.body)
        record = _integration.decode(change.record)
        grants = tuple(grant if grant.position else replace(grant, position=entry.position) for grant in record.grants)
        all_guilds_from = entry.position if record.all_guilds_from < 0 else record.all_guilds_from
        record = replace(record, grants=grants, all_guilds_from=all_guilds_from)
        before = self.integrations.get(record.integration_id)
        if before is None:
            insort(self.by_age, (record.create_time, record.integration_id))
        elif before.record.owner_user_id != record.owner_user_id:
            self._owned[before.record.owner_user_id].discard(record.integration_id)
        self._owned.setdefault(record.owner_user_id, set()).add(record.integration_id)
        self._index_keys(record.integration_id, before.record.keys if before else (), record.keys)
        self.integrations[record.integration_id] = Held(record, entry.position, change.reason)
        return (record.integration_id,)

    def _apply_service(self, entry: Entry) -> tuple[str, ...]:
        record = _service.decode(_change.decode(entry.body).record)
        self._index_keys("", self.service.record.keys, record.keys)
        self.service = Held(record, entry.position)
        return ()

    def _apply_block(self, entry: Entry) -> list[str]:
        record = _block.decode(_change.decode(entry.body).record)
        self.blocks[record.user_id] = Held(record, entry.position)
        return self.owned_by(record.user_id)

    def _apply_secret(self, entry: Entry) -> tuple[str, ...]:
        record = msgspec.json.decode(_change.decode(entry.body).record, type=SecretCheck)
        if record.check != self._secret_check:
            raise StartError(
                "the hub's secret does not fit this store: its keys and cursors were made with another one; "
                "set HUB_SECRET to that, or unset it where the store keeps its own"
            )
        return ()

    def _apply_import(self, entry: Entry) -> tuple[str, ...]:
        if not _import.decode(entry.body).done:
            raise StartError(
                "an import into this store was cut off, it is not all there: remove the store (the data directory, or "
                "both NATS streams) and run 'hub import' again"
            )
        return ()

    def _apply_claim(self, entry: Entry) -> tuple[str, ...]:
        """Whose stream a subscription is; an earlier stream of it has to end. Without a body: it is forgotten."""
        name = entry.key.removeprefix("claim/")
        integration_id, _, subscription_id = name.partition("/")
        if entry.body:
            self.claims[name] = _claim.decode(entry.body).stream_id
            self._subscriptions.setdefault(integration_id, set()).add(subscription_id)
        else:
            self.claims.pop(name, None)
            self._subscriptions.get(integration_id, set()).discard(subscription_id)
        return (integration_id,)

    def _apply_cursor(self, entry: Entry) -> tuple[str, ...]:
        name = entry.key.removeprefix("cursor/")
        integration_id, _, subscription_id = name.partition("/")
        if entry.body:
            self.cursors[name] = Held(_cursor.decode(entry.body), entry.position)
            self._forgotten_cursors.pop(name, None)
            self._subscriptions.setdefault(integration_id, set()).add(subscription_id)
        else:
            self.cursors.pop(name, None)
            self._forgotten_cursors[name] = entry.position
            if len(self._forgotten_cursors) > MAX_FORGOTTEN:
                del self._forgotten_cursors[next(iter(self._forgotten_cursors))]
            if name not in self.claims:  # a place can be kept without a stream ever opened
                self._subscriptions.get(integration_id, set()).discard(subscription_id)
        return ()

    def _index_keys(self, integration_id: str, before: Iterable[KeyRecord], after: Iterable[KeyRecord]) -> None:
        for key in before:
            self._keys.pop(key.key_id, None)
        for key in after:
            self._keys[key.key_id] = Holder(integration_id, key)
            self.seconds_left(key)


def etag(held: Held[IntegrationRecord]) -> str:
    """Changes with every entry of an integration's record; tells nothing about positions.

    The time is for after a restore: positions are given anew then, and an etag of a change that was lost fits no other.
    """
    return sha256(f"{held.record.integration_id}:{held.position}:{held.record.update_time}".encode()).hexdigest()[:16]


def secret_check(secret: bytes) -> SecretCheck:
    """The record by which a later start is told whether it has the right secret."""
    return SecretCheck(derive(secret, "check", 16).hex())

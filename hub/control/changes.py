"""How state changes: read the newest record, decide, append on condition that nobody was faster, wait until in force.

Lives here: the one way by which anything but an event gets into the log, with who did it and why. Must not know what
the decisions are (``lifecycle.py``, ``keys.py``).
"""

import asyncio
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Any
from weakref import WeakValueDictionary

import msgspec

from hub.clock import Clock, rfc3339
from hub.control import keys
from hub.control.registry import IMPORT_KEY, SECRET_KEY, SERVICE_KEY, Held, Record, Registry, etag, secret_check
from hub.errors import Conflict, EtagMismatch, StorageUnavailable
from hub.model import (
    BlockRecord,
    Caller,
    Change,
    Entry,
    FieldChange,
    InstallationRecord,
    IntegrationRecord,
    Kind,
    Role,
    ServiceRecord,
)
from hub.scopes import SCOPES
from hub.storage import MAX_APPEND, Log

ATTEMPTS = 10
"""How often a change is decided anew when other replicas keep being faster."""

COMMAND_LINE = Caller(Role.SYSTEM, "", "", "hub", "")
"""Who made what the hub itself, or its command line, has made."""


class Changes:
    """Appends changes of state."""

    def __init__(self, log: Log, registry: Registry, clock: Clock) -> None:
        self._log = log
        self._registry = registry
        self._clock = clock
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def integration(
        self,
        by: Caller,
        integration_id: str,
        decide: Callable[[IntegrationRecord], IntegrationRecord],
        *,
        reason: str = "",
        expected_etag: str = "",
    ) -> Held[IntegrationRecord]:
        """Change an integration; `decide` makes the new record and may run more than once.

        Raises:
            IntegrationNotFound: there is none with this id.
            EtagMismatch: it was changed since `expected_etag` was read; "" skips the check.
            Whatever `decide` raises: then nothing has changed.
        """

        def current() -> Held[IntegrationRecord]:
            held = self._registry.integration(integration_id)
            if expected_etag and etag(held) != expected_etag:
                raise EtagMismatch(integration_id)
            return held

        def stamped(record: IntegrationRecord) -> IntegrationRecord:
            decided = decide(record)
            return decided if decided == record else msgspec.structs.replace(decided, update_time=self._clock.now())

        await self._change(by, f"integration/{integration_id}", current, stamped, reason)
        return self._registry.integration(integration_id)

    async def new_integration(self, by: Caller, record: IntegrationRecord, reason: str = "") -> Held[IntegrationRecord]:
        """Add an integration."""
        key = f"integration/{record.integration_id}"
        await self._append([self._entry(by, key, None, record, reason)], {key: 0})
        return self._registry.integration(record.integration_id)

    async def service(
        self, by: Caller, decide: Callable[[ServiceRecord], ServiceRecord], *, reason: str = ""
    ) -> Held[ServiceRecord]:
        """Change the service keys; `decide` makes the new record and may run more than once."""
        await self._change(by, SERVICE_KEY, lambda: self._registry.service, decide, reason)
        return self._registry.service

    async def block(self, by: Caller, blocks: Sequence[BlockRecord]) -> None:
        """Put developers on the blocklist, or off it, all or none; what is there already is not written again."""
        known = self._registry.blocks
        entries = [
            self._entry(by, f"block/{block.user_id}", held.record if held else None, block, block.reason)
            for block in blocks
            for held in (known.get(block.user_id),)
            if held is None or held.record != block
        ]
        if entries:
            await self._append(entries, {})

    async def installation(
        self, by: Caller, key: str, decide: Callable[[], tuple[InstallationRecord | None, InstallationRecord | None]]
    ) -> None:
        """Change an installation; `decide` gives the record before and after and may run more than once."""
        async with self._turn(key):
            for _ in range(ATTEMPTS):
                expected = self._registry.installations.positions.get(key, 0)
                before, after = decide()
                if after is None:
                    return
                try:
                    await self._append([self._entry(by, key, before, after, "")], {key: expected})
                except Conflict:
                    await self._registry.applied((await self._log.bounds()).last)
                else:
                    return
        raise StorageUnavailable

    async def save_usage(self) -> None:
        """Keep the times of last use that are only in memory."""
        entries = self._registry.usage.take_unsaved()
        for start in range(0, len(entries), MAX_APPEND):
            await self._log.append(entries[start : start + MAX_APPEND])

    async def _change(
        self, by: Caller, key: str, current: Callable[[], Held[Record]], decide: Callable[[Record], Record], reason: str
    ) -> None:
        async with self._turn(key):
            for _ in range(ATTEMPTS):
                held = current()
                record = decide(held.record)
                if record == held.record:
                    return
                try:
                    await self._append([self._entry(by, key, held.record, record, reason)], {key: held.position})
                except Conflict:
                    await self._registry.applied((await self._log.bounds()).last)
                else:
                    return
        raise StorageUnavailable

    def _turn(self, key: str) -> asyncio.Lock:
        """Changes of one key take turns: many at once would only make each other decide anew, until some give up."""
        turn = self._turns.get(key)
        if turn is None:
            turn = self._turns[key] = asyncio.Lock()
        return turn

    async def _append(self, entries: Sequence[Entry], expect: dict[str, int]) -> None:
        appended = await self._log.append(entries, expect)
        await self._registry.applied(appended[-1].position)

    def _entry(self, by: Caller, key: str, before: msgspec.Struct | None, after: msgspec.Struct, reason: str) -> Entry:
        return Entry(Kind.STATE, self._clock.now(), encode_change(by, before, after, reason), key=key)


def encode_change(by: Caller, before: msgspec.Struct | None, after: msgspec.Struct, reason: str) -> bytes:
    """The body of a state entry: the record, who made it so, and what changed."""
    change = Change(
        actor=by.actor,
        method=by.method,
        record=msgspec.Raw(msgspec.json.encode(after)),
        reason=reason,
        request_id=by.request_id,
        changes=differences(before, after),
    )
    return msgspec.json.encode(change)


def differences(before: msgspec.Struct | None, after: msgspec.Struct) -> tuple[FieldChange, ...]:
    """The fields in which two records of one kind differ, as JSON; digests of keys and times of update are left out."""
    old, new = (_shown(record) for record in (before, after))
    sides = ((name, _json(old.get(name)), _json(new.get(name))) for name in new if name != "update_time")
    return tuple(FieldChange(name, was, now) for name, was, now in sides if was != now)


def _shown(record: msgspec.Struct | None) -> dict[str, Any]:
    if record is None:
        return {}
    fields = {name: getattr(record, name) for name in record.__struct_fields__}
    return {name: _readable(name, value) for name, value in fields.items() if name not in _HIDDEN}


_HIDDEN = {"check", "digest", "all_guilds_from", "position"}
"""Secrets, and places in the log: internal, and not known yet when a grant is new."""


def _readable(name: str, value: Any) -> Any:  # noqa: ANN401  the value of any field
    """A value as people read it: the trail is for them."""
    if isinstance(value, IntEnum):
        return value.name
    if isinstance(value, tuple):
        return [_readable(name, one) for one in value]
    if isinstance(value, msgspec.Struct):
        return {inner: shown for inner, shown in _shown(value).items() if shown not in _NOTHING}
    if name.endswith("_time"):
        return rfc3339(value) if value else None
    if name in ("scope", "refused_scopes"):
        return SCOPES[value].name if value in SCOPES else value  # an old record may have one that is gone
    return value


_NOTHING: tuple[object, ...] = (None, "", [])


def _json(value: Any) -> str:  # noqa: ANN401  any JSON value
    return "" if value in _NOTHING else msgspec.json.encode(value).decode()


async def initialise(log: Log, registry: Registry, clock: Clock, secret: bytes) -> dict[Role, str] | None:
    """On an empty store: make the first admin key and the first bot key.

    Returns their texts by role; None if the store has its keys already, or another replica was faster.
    """
    if registry.service.position:
        return None
    minted = {
        role: keys.mint(role, registry.pepper, clock.now(), display_name=f"first {role.name.lower()} key")
        for role in (Role.ADMIN, Role.BOT)
    }
    records = {
        SECRET_KEY: secret_check(secret),
        SERVICE_KEY: ServiceRecord(tuple(key.record for key in minted.values())),
    }
    entries = [
        Entry(Kind.STATE, clock.now(), encode_change(COMMAND_LINE, None, record, "first start"), key=key)
        for key, record in records.items()
    ]
    try:
        await log.append(entries, dict.fromkeys((*records, IMPORT_KEY), 0))  # nor has an import begun meanwhile
    except Conflict:
        return None
    return {role: key.text for role, key in minted.items()}

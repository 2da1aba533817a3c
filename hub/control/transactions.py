"""How state changes: decide on the newest record, append on condition that it is still the newest, wait until applied.

Integrations, service keys, blocks and installations change in this way, each change with its entry of the audit trail.
Claims and committed cursors are appended by ``delivery/``; the first keys, rotations of the secret and imports by
commands that run while no hub does.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Generic, NamedTuple
from weakref import WeakValueDictionary

import msgspec
import structlog

from hub.clock import Clock
from hub.control.audit import encode_change
from hub.control.endpoints import DEFAULT, etag_of
from hub.control.hub_secret import HubSecret
from hub.control.registry import Registry, etag
from hub.control.versioned import Record, Versioned
from hub.endpoint_model import EndpointRecord
from hub.errors import Conflict, EtagMismatch, HubError, StartError, StorageUnavailable
from hub.model import (
    BlockRecord,
    Caller,
    Entry,
    InstallationRecord,
    IntegrationRecord,
    Kind,
    OversightRecord,
    Role,
    ServiceRecord,
)
from hub.privacy_model import SharingRecord
from hub.slices import STORED_AT_ONCE, slices
from hub.state import (
    BLOCK,
    ENDPOINT,
    IMPORT_KEY,
    INSTALLATION,
    INTEGRATION,
    OVERSIGHT,
    SECRET_KEY,
    SERVICE_KEY,
    SHARING,
)
from hub.storage import Log

ATTEMPTS = 10
"""How often a change is decided again because another replica changed the record first."""

MAX_TARGETS = 10
"""Targets of one change that its line in the log names."""

COMMAND_LINE = Caller(Role.SYSTEM, "", "", "hub", "")
"""The caller of changes that the hub or its command line makes."""

ShowKeys = Callable[[dict[Role, str]], Awaitable[None]]
"""A function that shows the texts of new keys, or raises StartError."""

Charge = Callable[[Caller], None]
"""A function that counts a change against the budget of its caller, or raises."""

DecideIntegration = Callable[[IntegrationRecord], IntegrationRecord]
"""A function that makes the new record of an integration from the newest one. It may run more than once."""


DecideEndpoint = Callable[[EndpointRecord | None], EndpointRecord | None]
"""The same for an endpoint; None as a record: there is none; as a result: nothing changes."""


class Intent(NamedTuple):
    """The context of a change.

    Attributes:
        by: the caller.
        reason: for the audit trail.
        etag: of the record that the caller has read; "" = any.
        require: checks that the caller may change the newest record of an integration, or raises; None = it may.
    """

    by: Caller
    reason: str = ""
    etag: str = ""
    require: Callable[[IntegrationRecord], None] | None = None


class _Target(NamedTuple, Generic[Record]):
    """A state key, how to read its newest record, and which entry is appended with the new one.

    `beside`: makes another entry of the new record, and returns the position on which it builds; None: there is none.
    """

    key: str
    read: Callable[[], Versioned[Record]]
    beside: Callable[[Record], tuple[Entry, int] | None] | None = None


class Changes:
    """Appends changes of state."""

    def __init__(self, log: Log, registry: Registry, clock: Clock) -> None:
        self._log = log
        self._registry = registry
        self._clock = clock
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def update_integration(
        self, intent: Intent, integration_id: str, decide: DecideIntegration, charge: Charge | None = None
    ) -> Versioned[IntegrationRecord]:
        """Change an integration; returns it as it is afterwards.

        Args:
            intent: who, why, and on which version.
            integration_id: names the integration.
            decide: makes the new record.
            charge: is called once, if the record changes, before anything is appended.

        Raises:
            IntegrationNotFound: there is no such integration.
            EtagMismatch: it was changed since the caller read it.
            What `decide` and `charge` raise: nothing was changed.
        """
        read = partial(self._read_integration, integration_id, intent)
        await self._update(intent, _Target(INTEGRATION.key(integration_id), read), decide, charge)
        return self._registry.integration(integration_id)

    async def add_integration(self, by: Caller, record: IntegrationRecord) -> Versioned[IntegrationRecord]:
        """Add an integration."""
        key = INTEGRATION.key(record.integration_id)
        await self._append(by, [self._entry(Intent(by), key, None, record)], {key: 0})
        return self._registry.integration(record.integration_id)

    async def update_service_keys(
        self, intent: Intent, decide: Callable[[ServiceRecord], ServiceRecord]
    ) -> Versioned[ServiceRecord]:
        """Change the service keys; `decide` makes the new record and may run more than once."""
        await self._update(intent, _Target(SERVICE_KEY, self._read_service), decide)
        return self._registry.service

    async def set_blocks(self, by: Caller, decide: Callable[[], Sequence[BlockRecord]]) -> None:
        """Put developers on the blocklist or take them off it, all or none; blocks that are in force are left out.

        `decide` makes the blocks from the newest blocklist and may run more than once.
        """
        blocklist = self._registry.blocklist
        async with self._lock(BLOCK.name):
            for _ in range(ATTEMPTS):
                changed = [block for block in decide() if block != blocklist.last_record(block.user_id)]
                entries = [self._block_entry(by, block) for block in changed]
                expect = {BLOCK.key(block.user_id): blocklist.position(block.user_id) for block in changed}
                try:
                    await self._append(by, entries, expect)
                except Conflict:
                    await self._registry.wait_applied((await self._log.bounds()).last)
                else:
                    return
        raise StorageUnavailable

    def _block_entry(self, by: Caller, block: BlockRecord) -> Entry:
        before = self._registry.blocklist.last_record(block.user_id)
        return self._entry(Intent(by, block.reason), BLOCK.key(block.user_id), before, block)

    async def update_installation(
        self,
        by: Caller,
        integration_id: str,
        guild_id: int,
        decide: Callable[[InstallationRecord | None], InstallationRecord | None],
        charge: Charge | None = None,
    ) -> InstallationRecord | None:
        """Change an installation; returns it as it is afterwards, None where the guild has none.

        `decide` makes the new record from the newest one (None: the guild has none) and may run more than once.
        """
        read = partial(self._registry.installations.versioned, integration_id, guild_id)
        await self._update(Intent(by), _Target(INSTALLATION.key(integration_id, guild_id), read), decide, charge)
        return self._registry.installations.record(integration_id, guild_id)

    async def update_endpoint(
        self,
        intent: Intent,
        integration_id: str,
        endpoint_id: str,
        decide: DecideEndpoint,
        charge: Charge | None = None,
    ) -> None:
        """Change an endpoint, and with it the URL in its integration's profile, where that is the endpoint's.

        `decide` makes the new record from the newest one (None: there is none) and may run more than once.

        Raises:
            IntegrationNotFound: there is no such integration.
            EtagMismatch: the endpoint was changed since the caller read it.
            What `decide` and `charge` raise: nothing was changed.
        """
        await self._log.refuse_older_hubs()
        read = partial(self._read_endpoint, integration_id, endpoint_id, intent)
        target = _Target(ENDPOINT.key(integration_id, endpoint_id), read, partial(self._profile_entry, intent))
        await self._update(intent, target, decide, charge)

    def _profile_entry(self, intent: Intent, endpoint: EndpointRecord) -> tuple[Entry, int] | None:
        """The integration's entry that goes with an endpoint's, and the position it expects; None if none is needed."""
        before, position, _ = self._registry.integration(endpoint.integration_id)
        url = "" if endpoint.deleted else endpoint.url
        if endpoint.endpoint_id != DEFAULT or before.endpoint_url == url:
            return None
        after = msgspec.structs.replace(before, endpoint_url=url)
        return self._entry(intent, INTEGRATION.key(before.integration_id), before, after), position

    async def update_sharing(
        self,
        by: Caller,
        guild_id: int,
        decide: Callable[[SharingRecord | None], SharingRecord | None],
        charge: Charge | None = None,
    ) -> None:
        """Change whether a guild shares its events; `decide` makes the new record and may run more than once."""
        read = partial(self._registry.hidden.sharing.versioned, guild_id)
        await self._update(Intent(by), _Target(SHARING.key(guild_id), read), decide, charge)

    def oversight_entry(self, by: Caller, record: OversightRecord, reason: str) -> Entry:
        """The audit entry of an admin's action on an integration's streams.

        Raises:
            IntegrationNotFound: there is no such integration.
        """
        self._registry.integration(record.integration_id)
        return self._entry(Intent(by, reason), OVERSIGHT.key(record.integration_id), None, record)

    async def oversee(self, by: Caller, record: OversightRecord, reason: str = "") -> int:
        """Append the audit entry of an admin's action on an integration's streams, and wait until it is applied.

        Raises:
            IntegrationNotFound: there is no such integration.
        """
        [appended] = await self._log.append([self.oversight_entry(by, record, reason)])
        await self._registry.wait_applied(appended.position)
        return appended.position

    async def save_usage(self) -> None:
        """Append the times of last use that are only in memory."""
        usage = self._registry.usage
        for some in slices(usage.due(), STORED_AT_ONCE):
            await self._log.append(usage.take(some))

    def _read_integration(self, integration_id: str, intent: Intent) -> Versioned[IntegrationRecord]:
        versioned = self._registry.integration(integration_id)
        if intent.require is not None:
            intent.require(versioned.record)
        if intent.etag and etag(versioned) != intent.etag:
            raise EtagMismatch(integration_id)
        return versioned

    def _read_endpoint(self, integration_id: str, endpoint_id: str, intent: Intent) -> Versioned[EndpointRecord | None]:
        integration, endpoints = self._registry.integration(integration_id), self._registry.endpoints
        if intent.require is not None:
            intent.require(integration.record)
        found = endpoints.find(integration_id, endpoint_id)
        if found is None:
            return Versioned(None, endpoints.position(integration_id, endpoint_id))
        if intent.etag and etag_of(found) != intent.etag:
            raise EtagMismatch(integration_id, "endpoint")
        return Versioned(*found)

    def _read_service(self) -> Versioned[ServiceRecord]:
        return self._registry.service

    async def _update(
        self, intent: Intent, target: _Target[Record], decide: Callable[[Record], Record], charge: Charge | None = None
    ) -> None:
        """The loop of optimistic concurrency: where another replica changed the record first, decide again.

        Changes of one key at this replica take turns, or many at once would only make each other start over. While one
        waits, its caller's key may have ended.
        """
        async with self._lock(target.key):
            for attempt in range(ATTEMPTS):
                if intent.by.key_id:
                    self._registry.keyring.require_live(intent.by.key_id)
                before, position, _ = target.read()
                after = decide(before)
                if after is None or after == before:
                    return
                if attempt == 0 and charge is not None:
                    charge(intent.by)
                entries, expect = [self._entry(intent, target.key, before, after)], {target.key: position}
                if target.beside is not None and (other := target.beside(after)) is not None:
                    entries.append(other[0])
                    expect[other[0].key] = other[1]
                try:
                    await self._append(intent.by, entries, expect)
                except Conflict:
                    await self._registry.wait_applied((await self._log.bounds()).last)
                else:
                    return
        raise StorageUnavailable

    def _lock(self, key: str) -> asyncio.Lock:
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock

    async def _append(self, by: Caller, entries: Sequence[Entry], expect: dict[str, int]) -> None:
        if not entries:
            return
        appended = await self._log.append(entries, expect)
        note_change(by, [entry.key for entry in entries])
        await self._registry.wait_applied(appended[-1].position)

    def _entry(self, intent: Intent, key: str, before: msgspec.Struct | None, after: msgspec.Struct) -> Entry:
        now = self._clock.now()
        if before is not None and isinstance(after, IntegrationRecord | EndpointRecord):
            after = msgspec.structs.replace(after, update_time=now)
        return Entry(Kind.STATE, now, encode_change(intent.by, before, after, intent.reason), key=key)


def note_change(by: Caller, targets: Sequence[str]) -> None:
    """Log that a caller changed something; the audit trail has the reason and the details."""
    extra = {"acting_user_id": by.user_id} if by.user_id else {}
    actor = f"{by.role.name.lower()}:{by.key_id}"
    target = " ".join(targets[:MAX_TARGETS])
    structlog.get_logger().info("changed", method=by.method, caller=actor, target=target, count=len(targets), **extra)


async def initialise(
    log: Log, registry: Registry, clock: Clock, secret: HubSecret, show: ShowKeys | None = None
) -> dict[Role, str] | None:
    """On an empty store: make the first admin key and the first bot key, and show them before they are stored.

    A key that was shown and not stored is harmless; a key that was stored and not shown would be valid and lost. Of
    several hubs that start at once, the one that stores the check of the secret goes on.

    Returns the texts by role; None if the store has keys already, or another replica was faster.

    Raises:
        StartError: the keys could not be shown, or not be stored after that.
        HubError: the store accepts nothing.
    """
    if registry.service.position:
        return None
    check = _first(SECRET_KEY, secret.record, clock)
    try:
        [claim] = await log.append([check], {SECRET_KEY: registry.secret.position, SERVICE_KEY: 0, IMPORT_KEY: 0})
    except Conflict:
        return None
    minted = {
        role: registry.keyring.mint(role, display_name=f"first {role.name.lower()} key")
        for role in (Role.ADMIN, Role.BOT)
    }
    made = {role: key.text for role, key in minted.items()}
    record = ServiceRecord(tuple(key.record for key in minted.values()))
    if show is not None:
        await show(made)
    try:
        await log.append([_first(SERVICE_KEY, record, clock)], {SECRET_KEY: claim.position, SERVICE_KEY: 0})
    except Conflict:
        raise StartError("another hub began on this store at the same time: the printed keys are not valid") from None
    except HubError as error:
        raise StartError(f"{error.message}; the printed keys are not valid") from None
    return made


def _first(key: str, record: msgspec.Struct, clock: Clock) -> Entry:
    return Entry(Kind.STATE, clock.now(), encode_change(COMMAND_LINE, None, record, "first start"), key=key)

"""Stores to move from and to, and what a log means to its readers."""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from hub.clock import Clock
from hub.config import Settings
from hub.control.audit import encode_change
from hub.control.hub_secret import HubSecret
from hub.control.registry import Registry
from hub.control.transactions import COMMAND_LINE, initialise
from hub.delivery.view import Narrowing, View
from hub.model import CursorRecord, Entry, GuildAccess, IntegrationRecord, Kind, State
from hub.storage import Log, open_storage
from tests.support.nats_servers import shared
from tests.support.stores import read_all, remove_streams, settings_for

WAYS = [("sqlite", "jetstream"), ("jetstream", "sqlite"), ("sqlite", "sqlite")]
"""From one backend to another."""


class Stores:
    """Names stores that do not exist yet; what they leave in NATS is removed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._prefix = f"T{secrets.token_hex(8)}"
        self._used_nats = False

    def named(self, backend: str, name: str, **values: Any) -> Settings:  # noqa: ANN401  any setting
        """The settings of a hub on a store of its own."""
        values |= {"listen": "127.0.0.1:0"}
        if backend == "jetstream":
            self._used_nats = True
            values |= {"storage": shared().url, "nats_stream": f"{self._prefix}_{name}"}
        return settings_for(self._directory / name, **values)

    async def close(self) -> None:
        """Leave nothing."""
        if self._used_nats:
            await remove_streams(shared().url, self._prefix)


async def begin(settings: Settings) -> Log:
    """The log of a new hub, with its first keys."""
    log = await open_storage(settings)
    secret = HubSecret((await log.secrets())[0])
    await initialise(log, Registry(secret, _Past()), _Past(), secret)
    return log


class _Past(Clock):
    """A clock by which everything that a test appends is later."""

    def now(self) -> int:
        """One microsecond after the beginning of all times."""
        return 1


def change(key: str, record: msgspec.Struct, time: int) -> Entry:
    """A state entry as the hub makes them."""
    return Entry(Kind.STATE, time, encode_change(COMMAND_LINE, None, record, "a test"), key=key)


def integration(name: str, **fields: Any) -> IntegrationRecord:  # noqa: ANN401  fields of the record
    """An integration, with what a test does not care about filled in."""
    return IntegrationRecord(name, name, "", "1", "", "", 1, 1, State.ACTIVE, **fields)


def placeless(entries: Sequence[Entry]) -> list[Entry]:
    """Entries without their positions."""
    return [replace(entry, position=0) for entry in entries]


class Meaning(NamedTuple):
    """What a log means, said without positions.

    Attributes:
        shown: to each integration: the ids of the events that it may see, and the fields that it does not get.
        rest: of each committed subscription: the ids of all events that follow; None: it gets a Gap.
        audit: the audit trail, without the places in it.
    """

    shown: dict[str, list[tuple[str, frozenset[str]]]]
    rest: dict[str, list[str] | None]
    audit: list[tuple[str, int, str]]


async def registry_of(log: Log) -> Registry:
    """The state as of the end of a log."""
    registry = Registry(HubSecret((await log.secrets())[0]), Clock())
    entries, through = await log.snapshot()
    registry.apply(entries)
    registry.advance(through)
    return registry


async def meaning(log: Log) -> Meaning:
    """What a log means to those who read it."""
    registry, bounds = await registry_of(log), await log.bounds()
    events = await read_all(log, kinds=frozenset({Kind.EVENT}))
    history = (await log.history(bounds.last + 1, 10_000)).entries
    return Meaning(
        {name: shown_to(registry, name, events) for name in registry.integrations},
        {
            name: rest_after(held.record, bounds.epoch, bounds.first, events)
            for name, held in registry.readers.cursors.items()
        },
        [(entry.key, entry.time, msgspec.json.decode(entry.body).get("reason", "")) for entry in history],
    )


def shown_to(registry: Registry, name: str, events: Sequence[Entry]) -> list[tuple[str, frozenset[str]]]:
    """What an integration may see of these events."""
    record = registry.integration(name).record
    view = View(record, registry.installations.agreed(name))
    masks = [(event, view.at(event.position - 1, Narrowing()).projection.mask(event)) for event in events]
    return [(event.body.decode(), mask.withheld) for event, mask in masks if mask is not None]


def rest_after(record: CursorRecord, epoch: int, first: int, events: Sequence[Entry]) -> list[str] | None:
    """What follows a committed cursor."""
    if record.epoch != epoch or record.position + 1 < first:
        return None
    return [event.body.decode() for event in events if event.position > record.position]


ALL, INSTALLED = GuildAccess.ALL, GuildAccess.INSTALLED

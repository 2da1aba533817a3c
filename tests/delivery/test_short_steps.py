"""No step of the event loop grows with the streams, records or events of a hub: they are handled some at a time."""

import asyncio
import gc
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tickets.hub.v1 import admin_service_pb2

from hub.api.audit_entries import entry_message
from hub.api.services import admin_audit
from hub.control.registry import Registry
from hub.control.sent import SentSpan, extended
from hub.delivery import sent_log
from hub.delivery.feed import APPLIED_AT_ONCE, between_events
from hub.delivery.sent_log import INTERVALS_AT_ONCE
from hub.model import Appended, Change, Entry, Expect, Kind
from hub.privacy_model import SentRecord, SentView
from hub.slices import STORED_AT_ONCE, in_turns, one_by_one, slices
from tests.support.events import event
from tests.support.failures import TICKET
from tests.support.hubs import RunningHub, emit_all

VIEW = SentView((1,))


class Appends:
    """Counts what a hub appends.

    Attributes:
        sizes: how many entries each append had.
    """

    def __init__(self, hub: RunningHub, patch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self._append = hub.hub.log.append
        patch.setattr(hub.hub.log, "append", self._counted)

    async def _counted(
        self, entries: Sequence[Entry], expect: Expect | None = None, *, independent: bool = False
    ) -> list[Appended]:
        self.sizes.append(len(entries))
        return await self._append(entries, expect, independent=independent)


async def test_records_of_what_was_sent_are_stored_some_at_a_time(
    hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two appends, in which other tasks run, no more intervals are joined than one record may have."""
    many, intervals = 400, 30
    spans = [(2 * at, 2 * at + 1, VIEW) for at in range(intervals)]
    log, appends = hub.hub.streams.sent_log, Appends(hub, monkeypatch)
    joined: list[int] = []

    def counted(before: SentRecord | None, more: Iterable[SentSpan], first: int) -> SentRecord:
        record = extended(before, more, first)
        joined.extend([0] * (len(appends.sizes) + 1 - len(joined)))
        joined[-1] += len(record.intervals)
        return record

    monkeypatch.setattr(sent_log, "extended", counted)
    for _ in range(2):
        for number in range(many):
            log.note(f"integration/{number}", list(spans), 0, None)
        log.request_full_save()
        await log.save(1)
    records = hub.hub.registry.readers.sent.records
    assert [len(records[f"integration/{number}"].record.intervals) for number in range(many)] == [intervals] * many
    assert sum(joined) == 2 * many * intervals
    assert max(joined) <= INTERVALS_AT_ONCE


async def test_records_of_events_that_are_gone_are_deleted_some_at_a_time(
    hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of which retention has removed every event."""
    many, log = 3 * STORED_AT_ONCE, hub.hub.streams.sent_log
    for number in range(many):
        log.note(f"integration/{number}", [(0, 5, VIEW)], 5, None)
    await log.save(1)
    records = hub.hub.registry.readers.sent.records
    assert len(records) == many
    appends = Appends(hub, monkeypatch)
    await log.save(6)
    assert not records
    assert appends.sizes == [STORED_AT_ONCE] * 3


async def test_a_full_save_that_is_requested_during_a_save_is_not_lost(hub: RunningHub) -> None:
    """The save that runs may have passed the record already: another one is due."""
    log = hub.hub.streams.sent_log
    log.note("integration/a", [(0, 5, VIEW)], 5, VIEW)
    log.request_full_save()
    saving = asyncio.create_task(log.save(1))
    await asyncio.sleep(0)
    log.request_full_save()
    await saving
    assert log.is_due()
    await log.save(1)
    assert not log.is_due()


async def test_a_full_save_that_fails_is_still_due(hub: RunningHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store refused it."""
    log = hub.hub.streams.sent_log

    async def refuse(*_: object, **__: object) -> None:
        raise OSError

    log.note("integration/a", [(0, 5, VIEW)], 5, None)
    with monkeypatch.context() as patch:
        patch.setattr(hub.hub.log, "append", refuse)
        log.request_full_save()
        with pytest.raises(OSError):  # noqa: PT011  it has no text
            await log.save(1)
    assert log.is_due()


async def test_times_of_use_are_stored_some_at_a_time(hub: RunningHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub with many keys does not encode them all in one step."""
    many = 2 * STORED_AT_ONCE + 50
    for number in range(many):
        hub.hub.registry.usage.note_stream(f"integration{number}", ())
    appends = Appends(hub, monkeypatch)
    await hub.hub.changes.save_usage()
    assert sum(appends.sizes) >= many
    assert max(appends.sizes) == STORED_AT_ONCE
    assert not hub.hub.registry.usage.due()


async def test_a_large_group_is_applied_some_entries_at_a_time(
    hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other tasks run in between; a stream gets every event, in order."""
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(latest={})
    applied: list[int] = []
    apply = hub.hub.registry.apply

    def counted(entries: Sequence[Entry]) -> set[str]:
        applied.append(len(entries))
        return apply(entries)

    monkeypatch.setattr(hub.hub.registry, "apply", counted)
    names = [f"e{number}" for number in range(1_000)]
    await emit_all(hub, [event(name, **TICKET) for name in names])
    assert [one.id for one in await stream.events(len(names))] == names
    assert max(applied) <= APPLIED_AT_ONCE
    assert sum(applied) >= len(names)


async def test_the_garbage_collector_does_not_track_the_events_in_memory(hub: RunningHub) -> None:
    """A full collection looks at every tracked object in one step, and the window may hold 100,000 events."""
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(latest={})
    names = [f"e{number}" for number in range(200)]
    await emit_all(hub, [event(name, **TICKET) for name in names])
    await stream.events(len(names))
    held = hub.hub.feed.window.between(0, hub.hub.feed.through)
    assert [one.entry.id for one in held] == names
    parts = [part for one in held for part in (one, one.entry, one._encoded, one.entry.body)]
    assert None not in parts
    assert not any(map(gc.is_tracked, parts))


async def test_a_page_of_the_audit_trail_is_converted_some_entries_at_a_time(
    hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other tasks run in between."""
    for _ in range(30):
        await hub.register("TICKET_CREATED")
    converted = most = 0

    def counted(entry: Entry, change: Change, registry: Registry) -> admin_service_pb2.AuditEntry:
        nonlocal converted
        converted += 1
        return entry_message(entry, change, registry)

    async def look() -> None:
        nonlocal converted, most
        while True:
            most, converted = max(most, converted), 0
            await asyncio.sleep(0)

    monkeypatch.setattr(admin_audit, "entry_message", counted)
    looking = asyncio.create_task(look())
    listed = await hub.admin.call(
        "AdminService/ListAuditEntries", admin_service_pb2.ListAuditEntriesRequest(page_size=100)
    )
    looking.cancel()
    assert len(listed.entries) >= 30
    assert 0 < most <= admin_audit.AT_ONCE


@given(kinds=st.lists(st.sampled_from((Kind.EVENT, Kind.STATE)), max_size=60), size=st.integers(1, 9))
def test_only_events_are_cut_apart(kinds: list[Kind], size: int) -> None:
    """Nothing is lost or moved; a slice ends with an event or at the end; it is no longer than it must be."""
    entries = [Entry(kind, 1, b"", position=at) for at, kind in enumerate(kinds)]
    some = list(between_events(entries, size))
    assert [entry for part in some for entry in part] == entries
    for part in some[:-1]:
        assert part[-1].kind is Kind.EVENT
        assert len(part) >= size
        assert all(entry.kind is Kind.STATE for entry in part[size - 1 : -1])


@given(parts=st.lists(st.integers(), max_size=30), size=st.integers(1, 7))
def test_slices_have_everything_in_order(parts: list[int], size: int) -> None:
    """Each has the same size, but for the last."""
    some = list(slices(parts, size))
    assert [part for one in some for part in one] == parts
    assert all(len(one) == size for one in some[:-1])
    assert all(some)


async def test_other_tasks_run_between_slices() -> None:
    """After each slice, and after each so many parts."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    await asyncio.sleep(0)
    turns = 0
    assert [list(some) async for some in in_turns(range(10), 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert turns == 2
    assert [one async for one in one_by_one(range(10), 4)] == list(range(10))
    assert turns == 4
    counting.cancel()

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
from hub.model import Appended, Change, ClaimRecord, Cursor, Entry, Expect, Kind
from hub.privacy_model import NoticeRecord, SentRecord, SentView
from hub.slices import STORED_AT_ONCE, Steps, in_turns, one_by_one, slices
from hub.state import CLAIM, NOTICE
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


async def test_a_stream_that_begins_during_a_save_stays_open_in_its_record(
    hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reader comes back while earlier slices are stored: a crash afterwards must count what it is sent then."""
    log, name = hub.hub.streams.sent_log, "integration/x"
    await log.begin(name, 3, VIEW)
    for number in range(4 * STORED_AT_ONCE):
        log.note(f"integration/{number}", [(0, 5, VIEW)], 5, VIEW)
    log.note(name, [(3, 6, VIEW)], 6, None)
    append, begun = hub.hub.log.append, list[asyncio.Task[None]]()

    async def beside(entries: Sequence[Entry], expect: Expect | None = None) -> list[Appended]:
        if not begun:
            begun.append(asyncio.create_task(log.begin(name, 6, VIEW)))
        return await append(entries, expect)

    monkeypatch.setattr(hub.hub.log, "append", beside)
    await log.save(1)
    await begun[0]
    assert hub.hub.registry.readers.sent.records[name].record.open_after >= 0


async def test_a_record_has_everything_that_was_sent_until_it_is_appended(
    hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An erasure that another hub stores during a save takes the records behind it for complete."""
    log, name = hub.hub.streams.sent_log, "other/x"
    await log.begin(name, 3, VIEW)
    for number in range(4 * STORED_AT_ONCE):
        log.note(f"integration/{number}", [(0, 5, VIEW)], 5, VIEW)
    log.note(name, [(3, 5, VIEW)], 5, VIEW)
    appends, sent = Appends(hub, monkeypatch), [(5, 6, VIEW)]

    def collect(integration_id: str) -> None:
        if integration_id == "other" and appends.sizes:  # sent while the earlier slices were stored
            log.note(name, sent[:], 6, VIEW)
            sent.clear()

    await log.save(1, collect)
    record = hub.hub.registry.readers.sent.records[name].record
    assert [(one.after, one.through) for one in record.intervals] == [(3, 6)]
    assert len(appends.sizes) > 1


async def test_the_streams_of_a_hub_are_asked_right_before_their_records_are_stored(
    hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nobody has noted what they were sent."""
    integration, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(latest={})
    monkeypatch.setattr(hub.hub.streams, "note_usage", lambda: None)
    hub.hub.streams.sent_log.note(f"{integration.integration_id}/default", [], 0, VIEW)
    await emit_all(hub, [event("a", **TICKET)])
    await stream.events(1)
    await hub.hub.flush_sent()
    record = hub.hub.registry.readers.sent.records[f"{integration.integration_id}/default"].record
    assert record.open_after >= 1
    assert record.intervals[-1].through == record.open_after


async def test_a_confirmation_that_comes_during_a_save_stays_the_newest(
    hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The save stores when notices were sent, some at a time; it must not overwrite what is confirmed meanwhile."""
    many = 2 * STORED_AT_ONCE
    notices = [NoticeRecord("E", f"i{number}", ()) for number in range(many)]
    appended = await hub.hub.log.append([NOTICE.entry(NOTICE.key("E", one.integration_id), 1, one) for one in notices])
    await hub.hub.registry.wait_applied(appended[-1].position)
    confirmations, known = hub.hub._confirmations, hub.hub.registry.hidden.erasures.notices
    for one in known.of_erasure("E"):
        confirmations.note_sent(one)
    append, confirming = hub.hub.log.append, list[asyncio.Task[None]]()

    async def beside(entries: Sequence[Entry], expect: Expect | None = None) -> list[Appended]:
        if not confirming:
            first = {entry.key for entry in entries}
            last = [one.integration_id for one in notices if NOTICE.key("E", one.integration_id) not in first][-1]
            confirming.append(asyncio.create_task(confirmations.arrived(last, Cursor(0, 0, 0), "E")))
        return await append(entries, expect)

    monkeypatch.setattr(hub.hub.log, "append", beside)
    await confirmations.save()
    await confirming[0]
    entries, _ = await hub.hub.log.snapshot()
    stored = [NOTICE.decode(entry.body) for entry in entries if NOTICE.has(entry.key)]
    assert sum(one.sent_time > 0 for one in stored) == many
    assert sum(one.confirm_time > 0 for one in stored) == 1


async def test_two_saves_of_claims_at_once(hub: RunningHub) -> None:
    """A stop saves while housekeeping does."""
    names = [f"i{number}/default" for number in range(2 * STORED_AT_ONCE + 50)]
    last_seen, now = hub.hub.streams.last_seen, hub.hub._clock.now()
    appended = await hub.hub.log.append(
        [CLAIM.entry(CLAIM.key(name), now, ClaimRecord(f"s-{name}", now)) for name in names]
    )
    await hub.hub.registry.wait_applied(appended[-1].position)
    for name in names:
        last_seen._unsaved[name] = ClaimRecord(f"s-{name}", now + 1, "DRAINING")
    await asyncio.gather(last_seen.save(), last_seen.save())
    assert {hub.hub.registry.readers.claims[name].record.end_reason for name in names} == {"DRAINING"}


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

    def next_turn() -> None:
        nonlocal converted
        converted = 0

    def counted(entry: Entry, change: Change, registry: Registry) -> admin_service_pb2.AuditEntry:
        nonlocal converted, most
        if not converted:
            asyncio.get_running_loop().call_soon(next_turn)
        converted += 1
        most = max(most, converted)
        return entry_message(entry, change, registry)

    monkeypatch.setattr(admin_audit, "entry_message", counted)
    listed = await hub.admin.call(
        "AdminService/ListAuditEntries", admin_service_pb2.ListAuditEntriesRequest(page_size=100)
    )
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


@pytest.mark.parametrize(("seconds", "turns"), [(0.0, 5), (3_600.0, 0)])
async def test_work_in_steps_rests_once_a_step_is_long(
    seconds: float, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts that cost little follow each other without a rest."""
    monkeypatch.setattr("hub.slices.STEP", seconds)
    found, steps = 0, Steps()

    async def count() -> None:
        nonlocal found
        while True:
            await asyncio.sleep(0)
            found += 1

    counting = asyncio.create_task(count())
    await asyncio.sleep(0)
    for _ in range(5):
        await steps.pause()
    assert found == turns
    counting.cancel()

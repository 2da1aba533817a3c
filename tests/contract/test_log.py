"""The contract of the seam: what every backend promises, sentence by sentence of ``hub/storage/__init__.py``."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any, cast

import pytest
from tickets.hub.v1 import event_pb2

from hub.api import convert
from hub.errors import Conflict, EventIdConflict, StorageUnavailable
from hub.model import Appended, Entry, Kind
from hub.state import COMPACTED_PREFIXES
from hub.storage import MAX_APPEND, Log
from hub.subjects import Subject, SubjectKind
from tests.support.stores import Store, append_all, event, read_all, state

SECOND = 1_000_000


async def take(tail: AsyncIterator[Sequence[Entry]], count: int) -> list[Entry]:
    """Entries from a tail until there are `count`."""
    entries: list[Entry] = []
    while len(entries) < count:
        entries += await anext(tail)
    return entries


def tail_of(log: Log, after: int = 0) -> Any:  # noqa: ANN401  contextlib has no public name for what it gives
    """A tail that is closed at the end of the block."""
    return aclosing(cast("Any", log.tail(after)))


# append


async def test_entries_are_read_back_unchanged_with_ascending_positions(log: Log) -> None:
    """What was appended is read back field by field, in order."""
    entries = [event("a", b"\x00\xff", 5, 2**63 - 1, 6), state("integration/x", b'{"a":1}', 6), event("", b"", 7)]
    results = await log.append(entries)
    got = await read_all(log)
    assert [r.position for r in results] == [e.position for e in got] == [1, 2, 3]
    assert [(e.kind, e.time, e.body, e.key, e.id, e.event_type, e.guild_id) for e in got] == [
        (e.kind, e.time, e.body, e.key, e.id, e.event_type, e.guild_id) for e in entries
    ]


async def test_given_positions_are_ignored(log: Log) -> None:
    """Only the log assigns positions."""
    await log.append([Entry(Kind.EVENT, 1, b"x", position=77)])
    assert [e.position for e in await read_all(log)] == [1]


async def test_an_append_has_a_largest_size(log: Log) -> None:
    """A caller with more entries divides them; otherwise the backends would differ."""
    with pytest.raises(ValueError, match="at most 1000"):
        await log.append([event()] * (MAX_APPEND + 1))
    assert len(await log.append([event()] * MAX_APPEND)) == MAX_APPEND


async def test_an_empty_append_adds_nothing(log: Log) -> None:
    """No entries, no results; an expectation is still checked."""
    assert await log.append([]) == []
    with pytest.raises(Conflict):
        await log.append([], {"integration/x": 3})
    assert await log.append([], {"integration/x": 0}) == []
    assert (await log.bounds()).last == 0


async def test_entries_survive_reopening(store: Store) -> None:
    """A store opened again holds the same entries, gives the next position and knows the ids."""
    log = await store.open()
    first = await log.append([event("a"), state("k")])
    before, bounds = await read_all(log), await log.bounds()
    await log.close()
    log = await store.open()
    assert await read_all(log) == before
    assert await log.bounds() == bounds
    assert await log.append([event("a"), event("b")]) == [
        Appended(first[0].position, 1_000, duplicate=True),
        Appended(3, 1_000),
    ]


async def test_accept_times_never_decrease(store: Store) -> None:
    """An entry older than the one before gets that one's time, within a call, between calls, after opening again."""
    log = await store.open()
    assert [r.time for r in await log.append([event(time=50), event(time=40), event(time=60)])] == [50, 50, 60]
    assert [r.time for r in await log.append([event(time=10)])] == [60]
    await log.close()
    log = await store.open()
    assert [r.time for r in await log.append([event(time=20)])] == [60]
    assert [e.time for e in await read_all(log)] == [50, 50, 60, 60, 60]


async def test_a_known_id_with_the_same_body_is_a_duplicate(log: Log) -> None:
    """A duplicate has the first one's position and time, and adds nothing."""
    (first,) = await log.append([event("a", time=5)])
    assert await log.append([event("a", time=9)]) == [Appended(first.position, 5, duplicate=True)]
    assert len(await read_all(log)) == 1


async def test_new_entries_beside_a_duplicate_are_stored(log: Log) -> None:
    """Known ids are marked and the rest is stored, in one call; also if the id occurs twice in it."""
    await log.append([event("a")])
    results = await log.append([event("b"), event("a"), event("b"), event("c")])
    assert [(r.position, r.duplicate) for r in results] == [(2, False), (1, True), (2, True), (3, False)]
    assert [e.id for e in await read_all(log)] == ["a", "b", "c"]


async def test_independent_entries_are_stored_separately(log: Log) -> None:
    """An entry whose id conflicts is left out; the entries before and after it, and the state, are stored."""
    await log.append([event("a", time=5)])
    entries = [event("b"), event("a", b"other"), event("b", b"other"), state("k"), event("a", time=5), event("c")]
    results = await log.append(entries, {"k": 0}, independent=True)
    assert [(r.position, r.duplicate, r.conflict) for r in results] == [
        *((2, False, False), (1, False, True), (2, False, True), (3, False, False), (1, True, False), (4, False, False))
    ]
    assert [e.id for e in await read_all(log)] == ["a", "b", "", "c"]
    with pytest.raises(Conflict):
        await log.append([event("d"), state("k")], {"k": 0}, independent=True)
    assert await log.append([event("d")], {"k": 3}) == [Appended(5, 1_000)]


async def test_a_known_id_with_another_body_conflicts_and_adds_nothing(log: Log) -> None:
    """The whole call is refused, the id is named."""
    await log.append([event("a")])
    with pytest.raises(EventIdConflict) as refused:
        await log.append([event("b"), event("a", b"other")])
    assert refused.value.metadata == {"event_id": "a"}
    with pytest.raises(EventIdConflict):
        await log.append([event("c", b"1"), event("c", b"2")])
    assert [e.id for e in await read_all(log)] == ["a"]
    assert [r.position for r in await log.append([event("b"), event("c")])] == [2, 3]


async def test_entries_without_id_are_never_duplicates(log: Log) -> None:
    """Only an id makes two events one."""
    assert [r.position for r in await log.append([event(), event(), state("k"), state("k")])] == [1, 2, 3, 4]


async def test_an_id_is_forgotten_after_the_window(store: Store) -> None:
    """The window counts from the first one's accept time, to the microsecond; a forgotten id counts as new."""
    log = await store.open(dedupe_window=10)
    await log.append([event("a", time=SECOND)])
    assert (await log.append([event("a", time=11 * SECOND)]))[0].duplicate
    assert await log.append([event("a", b"new", 11 * SECOND + 1)]) == [Appended(2, 11 * SECOND + 1)]
    assert await log.append([event("a", b"new", 21 * SECOND)]) == [Appended(2, 11 * SECOND + 1, duplicate=True)]
    with pytest.raises(EventIdConflict):
        await log.append([event("a", time=21 * SECOND)])


async def test_ids_are_known_exactly_for_their_window(store: Store) -> None:
    """Across several windows each id is known to the end of its own and not longer."""
    log = await store.open(dedupe_window=10)
    for second in range(60):
        now = second * SECOND
        assert not (await log.append([event(f"e{second}", time=now)]))[0].duplicate
        for age in (1, 5, 10):
            if second >= age:
                assert (await log.append([event(f"e{second - age}", time=now)]))[0].duplicate, (second, age)
    fresh = await log.append([event(f"e{second}", time=59 * SECOND) for second in range(49)])
    assert not any(result.duplicate for result in fresh)


async def test_concurrent_appends_of_one_id_give_one_position(log: Log) -> None:
    """Of many callers with the same event one is the first, whether their calls were grouped or not."""
    results = await asyncio.gather(*(log.append([event("a"), event(f"b{n}")]) for n in range(50)))
    assert {r[0].position for r in results} == {1}
    assert sum(not r[0].duplicate for r in results) == 1
    assert len(await read_all(log)) == 51


async def test_of_concurrent_appends_only_conflicting_ones_fail(log: Log) -> None:
    """Those that conflict with an earlier one fail, those beside them are stored."""
    results = await asyncio.gather(
        *(log.append([event("a", b"%d" % n), event(f"b{n}")]) for n in range(3)),
        *(log.append([event(f"c{n}")]) for n in range(20)),
        return_exceptions=True,
    )
    assert [type(r) for r in results[:3]] == [list, EventIdConflict, EventIdConflict]
    assert all(isinstance(r, list) for r in results[3:])
    assert [e.id for e in await read_all(log)] == ["a", "b0", *(f"c{n}" for n in range(20))]


# append with expect


async def test_expect_checks_the_position_of_a_key(log: Log) -> None:
    """0 means that the key does not exist; otherwise its newest entry must have that position."""
    await log.append([state("k", b"1")], {"k": 0})
    with pytest.raises(Conflict) as refused:
        await log.append([state("k", b"2")], {"k": 0})
    assert refused.value.key == "k"
    await log.append([state("k", b"2")], {"k": 1})
    with pytest.raises(Conflict):
        await log.append([state("k", b"3"), event("e")], {"k": 1})
    assert [e.body for e in await read_all(log)] == [b"1", b"2"]


async def test_expect_of_several_keys_is_all_or_nothing(log: Log) -> None:
    """One key that has moved refuses the call, also a key that the call does not write."""
    await log.append([state("a"), state("b")])
    with pytest.raises(Conflict) as refused:
        await log.append([state("a"), state("c")], {"a": 1, "b": 1, "c": 0})
    assert refused.value.key == "b"
    await log.append([state("a")], {"a": 1, "b": 2, "c": 0})
    assert (await log.bounds()).last == 3


async def test_of_concurrent_appends_with_one_expectation_one_wins(log: Log) -> None:
    """Grouped or not; appends without the expectation are not delayed."""
    await log.append([state("k")])
    results = await asyncio.gather(
        *(log.append([state("k", b"%d" % n)], {"k": 1}) for n in range(20)),
        log.append([event("e")]),
        return_exceptions=True,
    )
    assert sum(isinstance(r, list) for r in results[:20]) == 1
    assert all(isinstance(r, list | Conflict) for r in results)
    assert len(await read_all(log)) == 3


async def test_expectations_build_on_each_other_in_one_group(log: Log) -> None:
    """A call may expect what the call before it wrote, although both may be stored together."""
    results = await asyncio.gather(*(log.append([state("k", b"%d" % n)], {"k": n}) for n in range(10)))
    assert [r[0].position for r in results] == list(range(1, 11))


# cancellation


async def test_a_cancelled_append_is_stored_whole_or_not_at_all(log: Log) -> None:
    """Cancelled at ever later moments: both of its entries are stored or none, and the next append works."""
    steps, finished = 0, 0
    while finished < 3:
        steps += 1 + steps // 20
        task = asyncio.create_task(log.append([event(f"{steps}-1"), event(f"{steps}-2")]))
        beside = asyncio.create_task(log.append([event(f"{steps}-beside")]))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        await beside
        (after,) = await log.append([event(f"{steps}-after")])
        assert not after.duplicate
        found = [e.id for e in await read_all(log) if e.id in (f"{steps}-1", f"{steps}-2")]
        assert found in ([], [f"{steps}-1", f"{steps}-2"])
        if isinstance(outcome, list):
            finished += 1
            assert found
        assert {f"{steps}-beside", f"{steps}-after"} <= {e.id for e in await read_all(log)}


async def test_a_retried_append_after_a_cancellation_is_stored_once(log: Log) -> None:
    """The retry after a cancellation finds its own entry or makes it: one position either way."""
    for steps in (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377):
        task = asyncio.create_task(log.append([event(f"{steps}")]))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await log.append([event(f"{steps}")])
    ids = [e.id for e in await read_all(log)]
    assert sorted(ids) == sorted(set(ids))


async def test_every_method_may_be_cancelled(log: Log) -> None:
    """A cancelled read, trim, erase or snapshot leaves the log working."""
    await log.append([event(f"{n}") for n in range(20)])
    for steps in range(20):
        calls = [
            asyncio.create_task(cast("Any", call))
            for call in (log.read(0, 10), log.snapshot(), log.history(99, 5), log.position_at(5), log.trim(2, 1))
        ]
        for _ in range(steps):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        erasing = asyncio.create_task(log.erase([steps]))
        await asyncio.sleep(0)
        erasing.cancel()
        await asyncio.gather(*calls, erasing, return_exceptions=True)
        await log.append([event(f"after{steps}")])
    assert (await log.bounds()).last == 40


# snapshot


async def test_snapshot_is_the_newest_of_each_key(log: Log) -> None:
    """One entry of each key, in the log's order, and nothing else; `through` is the log's end."""
    await log.append([state("a", b"1"), event("e"), state("b", b"2"), state("a", b"3"), event("f")])
    entries, through = await log.snapshot()
    assert [(e.key, e.body, e.position) for e in entries] == [("b", b"2", 3), ("a", b"3", 4)]
    assert through == 5


async def test_snapshot_of_an_empty_log(log: Log) -> None:
    """It is empty, through position 0."""
    assert await log.snapshot() == ([], 0)


async def test_a_snapshot_is_consistent_while_others_write(log: Log) -> None:
    """While others write, each snapshot is the newest of each key up to its `through`, no older and no newer."""

    async def write() -> None:
        for n in range(200):
            await log.append([state(f"k{n % 7}", b"%d" % n), event(f"e{n}")])

    writer = asyncio.create_task(write())
    snapshots: dict[int, list[Entry]] = {}
    while not writer.done():
        snapshot, through = await log.snapshot()
        assert snapshots.setdefault(through, snapshot) == snapshot
    await writer
    entries = [e for e in await read_all(log) if e.kind is Kind.STATE]
    assert len(snapshots) > 5
    for through, snapshot in snapshots.items():
        newest = {e.key: e for e in entries if e.position <= through}
        assert snapshot == sorted(newest.values(), key=lambda e: e.position)


@pytest.mark.parametrize("prefix", COMPACTED_PREFIXES)
async def test_of_compacted_keys_only_the_newest_entry_is_kept(log: Log, prefix: str) -> None:
    """Superseded entries are removed, whether the newer one is in the same call, the same group or later."""
    await log.append([state(prefix + "a", b"1"), state(prefix + "a", b"2"), state("integration/a", b"1")])
    await asyncio.gather(*(log.append([state(prefix + "a", b"%d" % n)]) for n in range(10)))
    await log.append([state(prefix + "b"), state("integration/a", b"2")])
    kept = [(e.key, e.body) for e in await read_all(log)]
    assert kept == [("integration/a", b"1"), (prefix + "a", b"9"), (prefix + "b", b"{}"), ("integration/a", b"2")]
    assert (await log.bounds()).last == 15
    with pytest.raises(Conflict):
        await log.append([state(prefix + "a")], {prefix + "a": 12})
    await log.append([state(prefix + "a")], {prefix + "a": 13})


# read and history


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
async def test_pages_give_every_entry_once(log: Log, limit: int) -> None:
    """Pages of any size, followed by their `through`, are the log; also by kinds."""
    entries = [event(f"{n}") if n % 3 else state(f"k{n}") for n in range(20)]
    await log.append(entries)
    assert [(e.id, e.key) for e in await read_all(log, limit=limit)] == [(e.id, e.key) for e in entries]
    for kind in Kind:
        got = await read_all(log, limit=limit, kinds=frozenset([kind]))
        assert [(e.id, e.key) for e in got] == [(e.id, e.key) for e in entries if e.kind is kind]


async def test_rare_kinds_among_many_are_found(log: Log) -> None:
    """A page may be empty before the end, and always makes progress."""
    await append_all(log, [event(f"{n}") for n in range(25_000)])
    await log.append([state("k")])
    assert [e.key for e in await read_all(log, kinds=frozenset([Kind.STATE]))] == ["k"]


async def test_reading_after_the_end_gives_an_empty_page(log: Log) -> None:
    """At the end and beyond it, `through` does not go back."""
    await log.append([event("a")])
    for after in (1, 50):
        page = await log.read(after, 10)
        assert (page.entries, page.through) == ((), after)


async def test_history_goes_back_page_by_page(log: Log) -> None:
    """STATE entries newest first; `through` is the next `before`, 0 at the end."""
    await log.append([state(f"integration/{n % 2}", b"%d" % n) if n % 3 else event(f"{n}") for n in range(15)])
    bodies, before = [], 100
    while before:
        page = await log.history(before, 3)
        bodies += [int(e.body) for e in page.entries]
        before = page.through
    assert bodies == [14, 13, 11, 10, 8, 7, 5, 4, 2, 1]


async def test_history_of_a_prefix_leaves_out_compacted_keys(log: Log) -> None:
    """Only keys that begin with the prefix, taken literally, and none under COMPACTED_PREFIXES."""
    keys = [
        "integration/a",
        "integration/ab",
        "integration/b",
        "block/a",
        "cursor/a",
        "use/a",
        "claim/a",
        "in%egration/*",
    ]
    await log.append([state(key) for key in keys])
    for prefix in ("integration/a", "integration/", "block/", "in%", "*", "cursor/", "zzz", ""):
        page = await log.history(100, 50, prefix)
        expected = [k for k in reversed(keys) if k.startswith(prefix) and not k.startswith(COMPACTED_PREFIXES)]
        assert [e.key for e in page.entries] == expected, prefix
        assert page.through == 0


# tail


async def test_a_tail_catches_up_and_then_follows(log: Log) -> None:
    """What is there comes first, then what is appended, in order and once."""
    await append_all(log, [event(f"{n}") for n in range(2_500)])
    async with tail_of(log, 10) as tail:
        assert [e.position for e in await take(tail, 2_490)] == list(range(11, 2_501))
        waiting = asyncio.create_task(anext(tail))
        await log.append([event("new"), state("k")])
        assert [(e.id, e.key, e.position) for e in await waiting] == [("new", "", 2_501), ("", "k", 2_502)]


async def test_a_tail_has_the_stored_accept_times(log: Log) -> None:
    """Live and replayed entries are the same."""
    async with tail_of(log) as tail:
        waiting = asyncio.create_task(anext(tail))
        await log.append([event("a", time=9), event("b", time=3)])
        assert list(await waiting) == await read_all(log)


async def test_several_tails_each_get_everything_while_others_write(log: Log) -> None:
    """Tails begun at different moments and places have no holes and no repetitions."""

    async def follow(after: int) -> list[int]:
        async with tail_of(log, after) as tail:
            return [e.position for e in await take(tail, 600 - after)]

    tails = [asyncio.create_task(follow(after)) for after in (0, 0, 5, 299)]
    for n in range(150):
        await asyncio.gather(*(log.append([event(f"{n}-{m}")]) for m in range(4)))
        if n % 50 == 0:
            tails.append(asyncio.create_task(follow(n)))
    for task in tails:
        positions = await task
        assert positions == list(range(positions[0], 601))


async def test_a_tail_that_starts_after_the_end_waits_for_its_position(log: Log) -> None:
    """Entries up to the position are left out, although they are appended later."""
    async with tail_of(log, 3) as tail:
        waiting = asyncio.create_task(take(tail, 2))
        await asyncio.sleep(0)
        await log.append([event(f"{n}") for n in range(2)])
        await log.append([event(f"{n}") for n in range(2, 5)])
        assert [e.position for e in await waiting] == [4, 5]


async def test_a_slow_tail_misses_nothing(log: Log) -> None:
    """It falls behind, gets everything, and uses bounded memory."""
    async with tail_of(log) as tail:
        waiting = asyncio.create_task(anext(tail))
        await log.append([event("0")])
        positions = [e.position for e in await waiting]
        for n in range(40):
            await log.append([event(f"{n}-{m}", bytes(250_000)) for m in range(2)])
        positions += [e.position for e in await take(tail, 80)]
        waiting = asyncio.create_task(anext(tail))
        await log.append([event("end")])
        positions += [e.position for e in await waiting]
    assert positions == list(range(1, 83))


async def test_tails_end_when_the_log_is_closed(log: Log) -> None:
    """A waiting tail ends, after the entries that were handed over to it."""
    async with tail_of(log) as tail:
        waiting = asyncio.create_task(anext(tail))
        await log.append([event("a")])
        await waiting
        idle = asyncio.create_task(anext(tail))
        appended = asyncio.create_task(log.append([event("b")]))
        await asyncio.sleep(0)
        await log.close()
        await appended
        assert [e.id for e in await idle] == ["b"]
        with pytest.raises(StopAsyncIteration):
            await anext(tail)


# bounds, newest, position_at


async def test_bounds_of_an_empty_log(store: Store) -> None:
    """`first` 1, `last` 0, and an epoch of 63 bits that stays."""
    log = await store.open()
    bounds = await log.bounds()
    assert (bounds.first, bounds.last) == (1, 0)
    assert 0 <= bounds.epoch < 2**63
    await log.close()
    assert await (await store.open()).bounds() == bounds


async def test_newest_is_the_last_assigned_position(log: Log) -> None:
    """Also if its entry was removed."""
    assert await log.newest() == 0
    await log.append([event("a", time=10), state("cursor/x", time=20)])
    assert await log.newest() == 2
    await log.append([event("b", time=30)])
    await log.trim(4, 100)
    assert await log.newest() == 3


async def test_position_at_is_the_position_before_that_time(log: Log) -> None:
    """Reading after it gives every entry accepted at that time or later, and none older."""
    times = [10, 10, 20, 20, 20, 30, 50]
    await log.append([event(f"{n}", time=time) for n, time in enumerate(times)])
    for time in range(5, 60):
        position = await log.position_at(time)
        assert [e.time for e in await read_all(log, position)] == [t for t in times if t >= time]


async def test_position_at_with_compacted_and_trimmed_entries(log: Log) -> None:
    """Holes of compacted keys change nothing; a time before which all was trimmed differs from one that lost events."""
    await log.append([event("a", time=10), state("cursor/x", time=20), event("b", time=30), event("c", time=40)])
    await log.append([state("cursor/x", time=50)])
    assert [await log.position_at(time) for time in (10, 11, 20, 30, 31, 50, 51)] == [0, 2, 2, 2, 3, 4, 5]
    assert await log.trim(4, 100) == 4
    assert await log.position_at(31) == 3
    for lost in (5, 10, 30):
        assert await log.position_at(lost) < 3


async def test_position_at_with_lost_entries(store: Store) -> None:
    """A lost event has no time: it hides no older event, and where it may be recent enough it is read."""
    log = await store.open()
    await log.append([event(f"{n}", time=10 * n) for n in range(1, 9)])
    for lost in (4, 6):
        await store.lose(lost)
    assert [await log.position_at(time) for time in (5, 20, 30, 31, 45, 50, 60, 70, 80, 81)] == [
        *(0, 1, 2),
        *(3, 3, 3),  # 4 was accepted at some time from 30 to 50
        *(5, 5),
        *(7, 8),
    ]
    [first] = (await log.read(await log.position_at(45), 1)).entries
    assert (first.position, first.kind) == (4, Kind.DAMAGED)


# trim


async def test_trim_removes_the_oldest_events_and_no_state(log: Log) -> None:
    """Up to `limit` a call; returns the new `first`: before it there is only state."""
    await log.append([state("k", b"1"), *(event(f"{n}") for n in range(6)), state("k", b"2"), event("x")])
    assert await log.trim(9, 4) == 6
    assert (await log.bounds()).first == 6
    assert await log.trim(9, 4) == 8
    assert [e.position for e in await read_all(log)] == [1, 8, 9]
    assert await log.trim(9, 4) == 8


async def test_a_log_without_old_events_keeps_its_first_position(log: Log) -> None:
    """A quiet log of state entries keeps its `first`: no cursor expires."""
    await log.append([state("k", b"1"), state("claim/a/b", b"x"), state("k", b"2"), event("x")])
    assert await log.trim(4, 100) == 1
    assert (await log.bounds()).first == 1


async def test_tombstones_are_trimmed_with_the_events_of_their_time(log: Log) -> None:
    """A tombstone of a compacted key is removed by a trim, which does not move `first`."""
    await log.append([state("claim/a/b", b"x"), state("claim/a/b", b""), state("k", b"1"), event("x")])
    assert await log.trim(4, 100) == 1
    assert [e.key for e in await read_all(log)] == ["k", ""]
    assert [e.key for e in (await log.snapshot())[0]] == ["k"]


async def test_trim_neither_goes_back_nor_beyond_the_end(log: Log) -> None:
    """An older `before` changes nothing; one beyond the end stops after the last entry."""
    await log.append([event(f"{n}") for n in range(5)])
    assert await log.trim(3, 10) == 3
    assert await log.trim(1, 10) == 3
    assert await log.trim(5, 0) == 3
    assert await log.trim(100, 10) == 6
    bounds = await log.bounds()
    assert (bounds.first, bounds.last) == (6, 5)


async def test_positions_and_times_continue_after_everything_was_trimmed(store: Store) -> None:
    """All entries are trimmed and the store is reopened: positions and times continue."""
    log = await store.open()
    await log.append([event("a", time=77), event("b", time=88)])
    await log.trim(3, 10)
    bounds = await log.bounds()
    await log.close()
    log = await store.open()
    assert await log.bounds() == bounds
    assert await read_all(log) == []
    assert await log.append([event("c", time=5)]) == [Appended(3, 88)]
    assert await log.append([event("a", time=5)]) == [Appended(1, 77, duplicate=True)]


# erase


async def test_erase_removes_the_content_and_keeps_the_position(log: Log) -> None:
    """EVENT entries become ERASED with nothing in them but time and position; state and holes are passed over."""
    await log.append([event("a", b"one", 5), state("k", b"{}", 6), event("b", b"two", 7)])
    await log.erase([1, 2, 99])
    entries = await read_all(log)
    assert entries[0] == Entry(Kind.ERASED, 5, b"", position=1)
    assert [(e.kind, e.body) for e in entries[1:]] == [(Kind.STATE, b"{}"), (Kind.EVENT, b"two")]
    assert [e.position for e in await read_all(log, kinds=frozenset([Kind.ERASED]))] == [1]
    await log.erase([])
    await log.erase([1])


async def test_an_erased_event_is_still_known_by_its_id(log: Log) -> None:
    """Within the window the same event is a duplicate, another one under its id a conflict."""
    await log.append([event("a", b"one", 5)])
    await log.erase([1])
    assert await log.append([event("a", b"one", 9)]) == [Appended(1, 5, duplicate=True)]
    with pytest.raises(EventIdConflict):
        await log.append([event("a", b"", 9)])


async def test_erased_events_are_trimmed(log: Log) -> None:
    """What is left of an event goes when the event would have gone."""
    await log.append([event("a"), event("b")])
    await log.erase([1])
    await log.trim(3, 10)
    assert await read_all(log) == []


async def test_erase_of_many_in_one_call(log: Log) -> None:
    """More than a transaction takes at once."""
    await append_all(log, [event(f"{n}") for n in range(1_200)])
    await log.erase(range(1, 1_201))
    assert {e.kind for e in await read_all(log)} == {Kind.ERASED}


# remove_superseded


async def test_remove_superseded_keeps_the_newest_entry_of_each_key(store: Store) -> None:
    """Also in the audit trail, in a snapshot and for a log that is opened later; events and holes are ignored."""
    log = await store.open()
    await log.append([state("a", b"1"), event("e"), state("b", b"2"), state("a", b"3"), state("a", b"4"), event("f")])
    assert [e.position for e in (await log.history(99, 2)).entries] == [5, 4]  # what was read is not shown again
    await log.remove_superseded([1, 2, 3, 4, 5, 6, 99])
    for again in range(2):
        entries = await read_all(log)
        assert [(e.position, e.body) for e in entries if e.key] == [(3, b"2"), (5, b"4")], again
        assert [e.id for e in entries if not e.key] == ["e", "f"]
        assert [e.position for e in (await log.history(99, 2)).entries] == [5, 3]
        assert [e.position for e in (await log.snapshot())[0]] == [3, 5]
        assert (await log.bounds()).first == 1
        await log.close()
        log = await store.open()
    await log.remove_superseded([])
    await log.append([state("b", b"5")], {"b": 3})
    await log.remove_superseded([3])
    assert [e.position for e in (await log.snapshot())[0]] == [5, 7]


async def test_removed_entries_do_not_count_as_damage(log: Log) -> None:
    """No page, tail or search by time takes the holes for damage, or for the end."""
    await log.append([entry for n in range(40) for entry in (state("a", b"%d" % n, n), event(f"{n}", time=n))])
    await log.remove_superseded(range(1, 80))
    entries = await read_all(log, limit=7)
    assert [e.kind for e in entries] == [Kind.EVENT] * 39 + [Kind.STATE, Kind.EVENT]
    assert log.damaged == 0
    assert await log.position_at(20) + 1 <= 42
    assert [e.time for e in await read_all(log, await log.position_at(20))] == [*range(20, 39), 39, 39]


async def test_many_superseded_entries_in_one_call(log: Log) -> None:
    """More than a transaction takes at once."""
    await append_all(log, [state("a", b"%d" % n) for n in range(600)])
    await log.remove_superseded(range(1, 601))
    assert [e.position for e in await read_all(log)] == [600]


# secret, close


async def test_the_secret_is_made_once(store: Store) -> None:
    """32 bytes, the same at every later opening."""
    log = await store.open()
    secret = (await log.secrets())[0]
    assert len(secret) == 32
    await log.close()
    assert (await (await store.open()).secrets())[0] == secret


async def test_a_given_secret_is_used(store: Store) -> None:
    """Of the settings' text 32 bytes are made, always the same; they do not hold the text."""
    log = await store.open(secret="x" * 40)
    secret = (await log.secrets())[0]
    assert len(secret) == 32
    assert b"xxxx" not in secret
    await log.close()
    assert (await (await store.open(secret="x" * 40)).secrets())[0] == secret


@pytest.mark.parametrize("keep", [True, False])
async def test_a_secret_is_rotated_with_its_entry(store: Store, *, keep: bool) -> None:
    """The store has the new one, or none where the settings give it; a conflict changes nothing."""
    log = await store.open()
    [old] = await log.secrets()
    [first] = await log.append([state("secret", b"1")])
    with pytest.raises(Conflict):
        await log.rotate_secret(b"w" * 32, state("secret", b"w"), {"secret": first.position + 9}, keep=keep)
    assert old in await log.secrets()
    new = hashlib.sha256(b"x" * 40).digest()
    await log.rotate_secret(new, state("secret", b"2"), {"secret": first.position}, keep=keep)
    await log.close()
    log = await (store.open() if keep else store.open(secret="x" * 40))
    assert await log.secrets() == [new]
    entries, _ = await log.snapshot()
    assert [entry.body for entry in entries if entry.key == "secret"] == [b"2"]


async def test_close_completes_appends_in_flight(store: Store) -> None:
    """Appends begun before close are stored and answered; later ones are refused; closing again is harmless."""
    log = await store.open()
    begun = [asyncio.create_task(log.append([event(f"{n}")])) for n in range(15)]
    trimming = asyncio.create_task(log.trim(2, 1))  # in between, so that not all is one group
    begun += [asyncio.create_task(log.append([event(f"{n}")])) for n in range(15, 30)]
    await asyncio.sleep(0)
    await asyncio.gather(log.close(), log.close())
    await log.close()
    assert [results[0].position for results in await asyncio.gather(*begun)] == list(range(1, 31))
    assert await trimming == 2
    for call in (log.append([event("late")]), log.read(0, 1), log.snapshot(), log.trim(2, 2), log.erase([1])):
        with pytest.raises(StorageUnavailable):
            await cast("Any", call)
    assert (await (await store.open()).bounds()).last == 30


async def test_a_cancelled_close_still_closes_the_store(store: Store) -> None:
    """However far close() had got, the store is released and can be opened again."""
    for steps in range(8):
        log = await store.open()
        await log.append([event(f"{steps}")])
        closing = asyncio.create_task(log.close())
        for _ in range(steps):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)
        await log.close()
    assert (await (await store.open()).bounds()).last == 8


# find


def about(user_id: str, name: str, guild_id: str = "51") -> Entry:
    """A ticket that a user created, as the log keeps it."""
    created = event_pb2.TicketCreated(creator_user_id=user_id)
    made = event_pb2.Event(id=name, guild_id=guild_id, ticket_created=created)
    return convert.event_entry(made, 1)


async def found(log: Log, subject: Subject, limit: int) -> list[str]:
    """The ids of a subject's events, page by page."""
    names: list[str] = []
    at, last = 0, (await log.bounds()).last
    while at < last:
        page = await log.find(at, limit, subject)
        assert page.through > at, "it stands still"
        assert len(page.entries) <= limit
        names += [entry.id for entry in page.entries]
        at = page.through
    return names


@pytest.mark.parametrize("limit", [1, 2, 1_000])
async def test_find_returns_exactly_the_events_about_a_subject(log: Log, limit: int) -> None:
    """Users by whole ids, guilds by theirs; state, and ids that merely hold the digits, are passed over."""
    entries = [
        about("700", "a"),
        about("7001", "b"),
        about("700", "c", "7001"),
        about("1", "700"),
        about("2", "d", "700"),
    ]
    await log.append([entries[0], state("k", b'"700"'), *entries[1:]])
    assert await found(log, Subject(SubjectKind.USER, 700), limit) == ["a", "c"]
    assert await found(log, Subject(SubjectKind.USER, 7001), limit) == ["b"]
    assert await found(log, Subject(SubjectKind.GUILD, 700), limit) == ["d"]
    assert await found(log, Subject(SubjectKind.GUILD, 51), limit) == ["a", "b", "700"]
    assert await found(log, Subject(SubjectKind.USER, 9), limit) == []


async def test_find_skips_erased_and_trimmed_events(log: Log) -> None:
    """It continues behind them; a later call also flushes the list of erasures."""
    await log.append([about("7", name) for name in "abcd"])
    await log.erase([2, 3], flush=False)
    await log.erase([])
    assert await found(log, Subject(SubjectKind.USER, 7), 10) == ["a", "d"]
    await log.trim(2, 10)
    assert await found(log, Subject(SubjectKind.USER, 7), 10) == ["d"]

"""Erasures: hidden with their answer, overwritten afterwards, for the one who asked and for nobody else."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from hub.archive.migration import export_log, import_log
from hub.errors import StorageUnavailable
from hub.model import Kind
from hub.privacy import erasing
from hub.storage.sqlite import store as sqlite
from tests.support.calls import ask, fails, reason_of
from tests.support.events import all_of, closed, event, ids, verified
from tests.support.governance import arrived, opened, refused
from tests.support.hubs import FakeClock, RunningHub, StartHub, emit, emit_all, log_of, only_in_the_log, until
from tests.support.privacy import (
    DONE,
    LONGER,
    USER,
    by,
    done,
    erase_guild,
    erase_user,
    exported,
    in_memory,
    occurrences,
)
from tests.support.stores import remove_streams

SCOPES = ("TICKET_CREATED", "TICKET_STATS", "MEMBER_VERIFIED", "MEMBER_VERIFIED_IDENTITY")


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is erased in the background: what is hidden is hidden by the request alone."""

    async def nothing(*_: object) -> None:
        """Work on no erasure."""

    monkeypatch.setattr(erasing.Eraser, "_finish", nothing)


@pytest.mark.usefixtures("idle")
async def test_after_the_answer_nothing_about_the_user_is_delivered(timed_hub: RunningHub, clock: FakeClock) -> None:
    """From the window, from pages, and from a page that was in memory; others, and what follows, are as before."""
    hub = timed_hub
    integration, reader = await hub.register(*SCOPES)
    one = integration.integration_id
    mine = [by(USER, "mine"), event("mine too", "52", member_verified={"user_id": USER})]
    others = [by(LONGER, "longer"), by(USER[:-1], "shorter"), closed("nobody", "51"), verified("other")]
    for sent in [mine[0], *others, mine[1]]:
        sent.id = sent.id.replace(" ", "-")
        await hub.emit(sent)
    only_in_the_log(hub)
    before = await opened(reader, one, subscription_id="before")
    assert sorted(await arrived(hub, clock, before)) == sorted(all_of([*mine, *others]))
    await erase_user(hub)
    assert in_memory(hub, f"{USER}") - in_memory(hub, LONGER) == 0
    for name in ("window", "page", "page again"):
        stream = await opened(reader, one, subscription_id=name.replace(" ", "-"))
        assert await arrived(hub, clock, stream) == all_of(others)
        only_in_the_log(hub)
    await hub.emit(by(USER, "after"))
    assert (await arrived(hub, clock, before))[-1] == "after"


@pytest.mark.usefixtures("idle")
async def test_a_page_that_was_being_read_is_filtered_when_it_is_kept(
    timed_hub: RunningHub, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store was asked before the erasure and answers after it."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED")
    await hub.emit(by(USER, "mine"))
    await hub.emit(by(LONGER, "other"))
    only_in_the_log(hub)
    read, reads, goes_on = hub.hub.log.read, asyncio.Event(), asyncio.Event()

    async def slow(*arguments: Any) -> Any:  # noqa: ANN401  whatever the call takes and gives
        page = await read(*arguments)
        reads.set()
        await goes_on.wait()
        return page

    monkeypatch.setattr(hub.hub.log, "read", slow)
    stream = await opened(reader, integration.integration_id)
    await reads.wait()
    await erase_user(hub)
    goes_on.set()
    assert await arrived(hub, clock, stream) == ["other"]


@pytest.mark.usefixtures("idle")
async def test_hidden_events_stay_hidden_after_a_restart(start_hub: StartHub, clock: FakeClock) -> None:
    """The hub ends before it has erased anything."""
    hub = await start_hub(clock, write_deadline=1e9)
    integration, reader = await hub.register("TICKET_CREATED")
    await hub.emit(by(USER, "mine"))
    await hub.emit(by(LONGER, "other"))
    await erase_user(hub)
    await hub.close()
    hub = await start_hub(clock, write_deadline=1e9)
    stream = await opened(hub.caller(reader.key), integration.integration_id)
    assert await arrived(hub, clock, stream) == ["other"]
    assert await exported(hub.bot, user_id=USER, acting_user_id=USER) == []


async def test_later_events_of_an_erased_guild_are_delivered(timed_hub: RunningHub, clock: FakeClock) -> None:
    """Every earlier event of the guild is erased, whoever it names; later events are delivered."""
    hub = timed_hub
    integration, reader = await hub.register(*SCOPES)
    for sent in (by(USER, "a", "51"), closed("b", "51"), by(USER, "c", "5"), by(USER, "d", "511")):
        await hub.emit(sent)
    erasure = await erase_guild(hub, "51")
    assert (await done(hub.bot, erasure.erasure_id)).events_erased == 2
    await hub.emit(closed("e", "51"))
    stream = await opened(reader, integration.integration_id)
    assert await arrived(hub, clock, stream) == ["c", "d", "e"]


async def test_a_finished_erasure_leaves_no_byte_of_the_user(start_hub: StartHub, tmp_path: Path) -> None:
    """Database, WAL, known ids, audit trail: the user's id is in none of them once the erasure is done."""
    hub = await start_hub()
    count = 1_500 if hub.settings.storage == "sqlite" else 200
    await emit_all(hub, [by(USER, f"{USER}-{n}") for n in range(count)])
    await emit_all(hub, [by("7", name) for name in ids("other", 50)])
    if hub.settings.storage == "sqlite":
        assert occurrences(tmp_path, USER) > 3_000
    erasure = await done(hub.bot, (await erase_user(hub, reason=f"I, {USER}, want it.")).erasure_id)
    assert (erasure.events_erased, erasure.progress) == (count, 1.0)
    assert in_memory(hub, USER) == 0
    if hub.settings.storage == "sqlite":
        assert occurrences(tmp_path, USER) == 0
    assert not [entry for entry in await log_of(hub) if USER.encode() in entry.body or USER in entry.id]
    again = await hub.emit(by(USER, f"{USER}-7"))
    assert again.duplicate, "an erased event that is emitted again within the window is known by its id"


async def test_neither_the_answer_nor_the_records_name_the_user(hub: RunningHub) -> None:
    """Erasure, list and audit trail have the reason, but not the user who asked for themselves."""
    await hub.emit(by(USER, "mine"))
    erasure = await done(hub.bot, (await erase_user(hub, reason=f"{USER} has left")).erasure_id)
    [listed] = (await ask(hub.admin, "PrivacyService/ListErasures")).erasures
    assert listed == erasure
    entries = (await ask(hub.admin, "AdminService/ListAuditEntries", method="EraseUser")).entries
    assert [(entry.reason, entry.actor.user_id) for entry in entries] == [("[omitted] has left", "")]
    assert USER not in str(entries)
    assert erasure.complete_time.ToMicroseconds() >= erasure.request_time.ToMicroseconds() > 0
    assert erasure.kept_since_time.ToMicroseconds() > 0


async def test_a_repeated_request_is_the_same_erasure(hub: RunningHub) -> None:
    """Repeated, beside itself and after it was done; without an id each is its own; an id of another is refused."""
    await hub.emit(by(USER, "mine"))
    first, second = await asyncio.gather(*(erase_user(hub, request_id="r1") for _ in range(2)))
    assert first.erasure_id == second.erasure_id
    await done(hub.bot, first.erasure_id)
    assert (await erase_user(hub, request_id="r1")).erasure_id == first.erasure_id
    assert len({(await erase_user(hub)).erasure_id for _ in range(2)}) == 2
    refusal = await fails(erase_user(hub, LONGER, request_id="r1"))
    assert reason_of(refusal) == "INVALID_REQUEST"
    assert (await erase_guild(hub, "51", request_id="r2")).erasure_id != first.erasure_id


async def test_concurrent_erasures_of_a_user_both_finish(hub: RunningHub) -> None:
    """The second finds nothing; an erasure of a user without events is done at once."""
    await emit(hub, ids("e", 30), lambda name: by(USER, name))
    made = await asyncio.gather(*(erase_user(hub) for _ in range(3)), erase_user(hub, "9"))
    counts = [(await done(hub.bot, erasure.erasure_id)).events_erased for erasure in made]
    assert (sorted(counts[:3]), counts[3]) == ([0, 0, 30], 0)


async def test_events_between_two_erasures_are_erased_by_the_second(hub: RunningHub) -> None:
    """Each covers what was accepted before it."""
    await hub.emit(by(USER, "a"))
    first = await done(hub.bot, (await erase_user(hub)).erasure_id)
    await hub.emit(by(USER, "b"))
    second = await done(hub.bot, (await erase_user(hub)).erasure_id)
    assert (first.events_erased, second.events_erased) == (1, 1)


async def test_who_may_request_an_erasure(hub: RunningHub) -> None:
    """The bot for the user themselves, or for an admin of a guild; an admin of the hub for anyone, without an actor."""
    _, reader = await hub.register("TICKET_CREATED")
    asked: dict[str, Any] = {"user_id": "8"}
    cases = [
        (reader, {"acting_user_id": "8"}, "ROLE_NOT_ALLOWED"),
        (hub.bot, {"acting_user_id": "9"}, "NOT_SUBJECT"),
        (hub.bot, {}, "INVALID_REQUEST"),
        (hub.admin, {"acting_user_id": "8"}, "INVALID_REQUEST"),
    ]
    for who, fields, reason in cases:
        for method in ("EraseUser", "ExportSubject"):
            assert (await refused(who, f"PrivacyService/{method}", **asked, **fields)).reason == reason
    await ask(hub.admin, "PrivacyService/EraseUser", **asked)
    assert (await refused(hub.bot, "PrivacyService/EraseGuild", guild_id="51")).reason == "INVALID_REQUEST"
    assert (await refused(hub.bot, "PrivacyService/EraseUser", user_id="x", acting_user_id="8")).reason == (
        "INVALID_REQUEST"
    )


async def test_export_subject_lists_all_events_about_a_subject(timed_hub: RunningHub) -> None:
    """Whole events, with the time they were accepted, page by page, of this subject alone; none after an erasure."""
    hub = timed_hub
    mine = ids("mine", 25)
    for name in mine:
        await hub.emit(by(USER, name))
        await hub.emit(by(LONGER, f"not-{name}"))
    assert await exported(hub.bot, user_id=USER, acting_user_id=USER, page_size=10) == mine
    assert len(await exported(hub.admin, guild_id="51")) == 50
    reply = await ask(hub.admin, "PrivacyService/ExportSubject", user_id=USER, page_size=1)
    [shown] = reply.events
    assert shown.ticket_created.creator_user_id == USER
    assert shown.accept_time.ToMicroseconds() > 0
    other = {"user_id": LONGER, "page_token": reply.next_page_token}
    assert (await refused(hub.admin, "PrivacyService/ExportSubject", **other)).reason == "INVALID_REQUEST"
    await erase_user(hub)
    assert await exported(hub.admin, user_id=USER) == []
    assert (await refused(hub.admin, "PrivacyService/ExportSubject")).reason == "INVALID_REQUEST"


async def test_the_list_of_erasures_is_paged(hub: RunningHub) -> None:
    """The oldest first, each once."""
    made = [(await erase_user(hub, str(n))).erasure_id for n in range(1, 4)]
    found, token = [], ""
    while True:
        reply = await ask(hub.admin, "PrivacyService/ListErasures", page_size=1, page_token=token)
        found += [one.erasure_id for one in reply.erasures]
        token = reply.next_page_token
        if not token:
            break
    assert found == made


async def test_a_running_backup_delays_the_end_of_an_erasure(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says DONE only after the log was brought into the file; until then it is ERASING, and the user is hidden."""
    monkeypatch.setattr(erasing, "FLUSH_AGAIN", 0.01)
    monkeypatch.setattr(erasing, "FLUSH_TRIES", 10_000)
    hub = await start_hub()
    if hub.settings.storage != "sqlite":
        pytest.skip("there is no log beside the file")
    busy = True
    tries = 0
    empty = sqlite.SqliteStore.empty_wal

    async def held(self: sqlite.SqliteStore) -> None:
        nonlocal tries
        tries += 1
        if busy:
            raise StorageUnavailable
        await empty(self)

    monkeypatch.setattr(sqlite.SqliteStore, "empty_wal", held)
    await hub.emit(by(USER, "mine"))
    erasure = await erase_user(hub)
    await until(lambda: tries > 3)
    shown = (await ask(hub.bot, "PrivacyService/GetErasure", erasure_id=erasure.erasure_id)).erasure
    assert shown.state != DONE
    busy = False
    assert (await done(hub.bot, erasure.erasure_id)).events_erased == 1


async def test_retention_may_trim_during_an_erasure(timed_hub: RunningHub) -> None:
    """Events that are trimmed while they are being erased are gone, and the erasure ends."""
    hub = timed_hub
    await emit(hub, ids("e", 300), lambda name: by(USER, name))
    erasure = await erase_user(hub)
    await hub.hub.log.trim(200, 1_000)
    await done(hub.bot, erasure.erasure_id)
    assert not await log_of(hub, Kind.EVENT)


async def test_an_import_from_before_an_erasure_applies_it_again(
    start_hub: StartHub, clock: FakeClock, tmp_path: Path
) -> None:
    """An import takes the list of erasures as well, over both backends."""
    kept, moved, export = (tmp_path / name for name in ("kept", "moved", "x.export"))
    hub = await start_hub(clock, erasures_file=kept)
    await hub.emit(by(USER, "mine"))
    await hub.emit(by(LONGER, "other"))
    await hub.close()
    await export_log(hub.settings, export)
    hub = await start_hub(clock, erasures_file=kept)
    erasure = await done(hub.bot, (await erase_user(hub)).erasure_id)
    await hub.close()
    kept.rename(moved)
    if hub.settings.storage == "sqlite":
        hub.settings.data_dir.rename(tmp_path / "lost")
    else:
        await remove_streams(hub.settings.storage, hub.settings.nats_stream)
    await import_log(hub.settings, export, moved)
    hub = await start_hub(clock, erasures_file=kept)
    assert (await done(hub.admin, erasure.erasure_id)).events_erased == 1
    assert await exported(hub.admin, guild_id="51") == ["other"]

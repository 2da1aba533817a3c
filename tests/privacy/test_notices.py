"""Who received what: what was really sent, the notices that follow from it, and their confirmation."""

import asyncio
import itertools
from typing import Any

import pytest
from msgspec.structs import replace
from tickets.hub.v1 import event_service_pb2

from hub.control.notices import ErasureNotices
from hub.delivery import streams as streams_module
from hub.model import Kind
from hub.privacy import erasing
from hub.privacy.disclosures import Disclosures, Recipients
from hub.privacy.erasing import ABANDONED, PERIOD, Eraser
from hub.privacy_model import Channel, DisclosureRecord, ErasureState, NoticeRecord
from hub.state import NOTICE
from tests.support.calls import ask, commit
from tests.support.events import event, ids
from tests.support.governance import arrived, install, opened, refused, set_scopes, short, uninstall
from tests.support.hubs import Caller, FakeClock, RunningHub, StartHub, emit, emit_all, log_of, until
from tests.support.privacy import LONGER, USER, by, done, erase_guild, erase_user
from tests.support.streams import RawStream, standing_still

SCOPES = ("TICKET_CREATED", "MEMBER_VERIFIED", "MEMBER_VERIFIED_IDENTITY")
INSTALLED = 2
NOT_READY = "DISCLOSURES_NOT_READY"
DAY = 24 * 3_600 * 10**6


async def disclosed(who: Caller, /, **fields: Any) -> dict[str, Any]:  # noqa: ANN401  of the messages
    """The integrations that received something about a user."""
    reply = await ask(who, "PrivacyService/ListDisclosures", **fields)
    return {one.integration_id: one for one in reply.disclosures}


async def reads(hub: RunningHub, clock: FakeClock, who: Caller, integration_id: str, **request: Any) -> RawStream:  # noqa: ANN401  of SubscribeRequest
    """A stream that has brought everything there is."""
    stream = await opened(who, integration_id, **request)
    await arrived(hub, clock, stream)
    return stream


def erased(stream: RawStream) -> list[event_service_pb2.Erased]:
    """The notices that a stream has brought."""
    return [frame.erased for frame in stream.frames if frame.HasField("erased")]


async def notices(hub: RunningHub, erasure_id: str) -> dict[str, Any]:
    """The notices of an erasure, by integration."""
    erasure = (await ask(hub.admin, "PrivacyService/GetErasure", erasure_id=erasure_id)).erasure
    return {one.integration_id: one for one in erasure.notices}


async def test_only_integrations_that_received_events_are_listed(timed_hub: RunningHub, clock: FakeClock) -> None:
    """Not those that could have read, that read others' events, or that got the event without its user."""
    hub = timed_hub
    reader, idle, narrow, blind = [await hub.register(*SCOPES) for _ in range(3)] + [
        await hub.register("MEMBER_VERIFIED")
    ]
    await hub.emit(by(USER, "t1"))
    await hub.emit(event("v1", "51", member_verified={"user_id": USER}))
    await hub.emit(by(LONGER, "other", "52"))
    await reads(hub, clock, reader[1], reader[0].integration_id)
    await reads(hub, clock, narrow[1], narrow[0].integration_id, guild_ids=["52"])
    await reads(hub, clock, blind[1], blind[0].integration_id)
    del idle
    found = await disclosed(hub.bot, user_id=USER, acting_user_id=USER)
    assert list(found) == [reader[0].integration_id]
    [one] = found.values()
    assert (one.event_count, one.display_name, one.by, one.confirmed) == (2, "Statistics", 1, False)
    assert list(one.fields) == ["ticket_created.creator_user_id", "member_verified.user_id"]
    assert [short(scope) for scope in one.scopes] == ["TICKET_CREATED", "MEMBER_VERIFIED_IDENTITY"] or set(
        map(short, one.scopes)
    ) == set(SCOPES)
    assert 0 < one.first_time.ToMicroseconds() <= one.last_time.ToMicroseconds()
    guild = await disclosed(hub.admin, guild_id="51")
    assert set(guild) == {reader[0].integration_id, blind[0].integration_id}
    assert list(guild[blind[0].integration_id].fields) == ["member_verified"]


async def test_a_disclosure_under_a_scope_revoked_since_counts(timed_hub: RunningHub, clock: FakeClock) -> None:
    """What was sent counts, whatever is granted now; what came after the revocation was not sent."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED")
    one = integration.integration_id
    stream = await opened(reader, one, latest={})
    await hub.emit(by(USER, "before"))
    await arrived(hub, clock, stream)
    await set_scopes(hub, one)
    await hub.emit(by(USER, "after"))
    await arrived(hub, clock, stream)
    assert (await disclosed(hub.admin, user_id=USER))[one].event_count == 1


async def test_disclosures_follow_the_consent_of_their_time(timed_hub: RunningHub, clock: FakeClock) -> None:
    """An event of a guild that has since uninstalled counts; one of a guild that had excluded then does not."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED", guild_access=INSTALLED)
    every, all_reader = await hub.register("TICKET_CREATED")
    await install(hub, integration.integration_id, "51")
    await uninstall(hub, every.integration_id, "51")
    streams = [
        await opened(reader, integration.integration_id, latest={}),
        await opened(all_reader, every.integration_id, latest={}),
    ]
    await hub.emit(by(USER, "t1", "51"))
    for stream in streams:
        await arrived(hub, clock, stream)
    await uninstall(hub, integration.integration_id, "51")
    await install(hub, every.integration_id, "51")
    await hub.emit(by(LONGER, "t2", "51"))
    for stream in streams:
        await arrived(hub, clock, stream)
    assert list(await disclosed(hub.admin, user_id=USER)) == [integration.integration_id]
    assert list(await disclosed(hub.admin, user_id=LONGER)) == [every.integration_id]


async def test_disclosures_survive_a_restart(start_hub: StartHub, clock: FakeClock) -> None:
    """It is state of the log."""
    hub = await start_hub(clock, write_deadline=1e9)
    integration, reader = await hub.register("TICKET_CREATED")
    await hub.emit(by(USER, "t1"))
    stream = await reads(hub, clock, reader, integration.integration_id)
    stream.close()
    await hub.close()
    hub = await start_hub(clock, write_deadline=1e9)
    await hub.emit(by(LONGER, "t2"))
    assert list(await disclosed(hub.admin, user_id=USER)) == [integration.integration_id]
    assert list(await disclosed(hub.admin, user_id=LONGER)) == []


async def test_erasures_run_one_after_the_other(
    start_hub: StartHub, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hub was killed during one: no other erases its events before its recipients are known."""

    async def nothing(*_: object) -> None:
        """Work on no erasure."""

    hub = await start_hub(clock, write_deadline=1e9)
    integration, reader = await hub.register("TICKET_CREATED")
    await hub.emit(by(USER, "t1"))
    await reads(hub, clock, reader, integration.integration_id)
    with monkeypatch.context() as patched:
        patched.setattr(Eraser, "_finish", nothing)
        first = await erase_user(hub)
        await until(lambda: first.erasure_id in hub.hub.registry.hidden.erasures.work)
        await hub.close()
    hub = await start_hub(clock, write_deadline=1e9)
    await hub.emit(by(USER, "t2"))
    second = await erase_user(hub)
    await asyncio.sleep(4 * PERIOD)
    clock.monotonic_offset += ABANDONED + 1
    await done(hub.admin, second.erasure_id)
    erasure = await done(hub.admin, first.erasure_id)
    assert [notice.integration_id for notice in erasure.notices] == [integration.integration_id]
    assert erasure.events_erased == 1


async def test_a_stopping_hub_releases_its_erasure(
    start_hub: StartHub, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: no other hub has to wait until it seems abandoned."""

    async def never(*_: object) -> None:
        """Begin to erase, and come to no end."""
        await asyncio.Event().wait()

    monkeypatch.setattr(erasing, "ABANDONED", 1e9)
    hub = await start_hub(clock, write_deadline=1e9)
    await hub.emit(by(USER, "t1"))
    with monkeypatch.context() as patched:
        patched.setattr(Eraser, "_erase", never)
        erasure_id = (await erase_user(hub)).erasure_id
        erasures = hub.hub.registry.hidden.erasures
        await until(lambda: erasures.require(erasure_id).record.state is ErasureState.ERASING)
        await hub.close()
    hub = await start_hub(clock, write_deadline=1e9)
    assert (await done(hub.admin, erasure_id)).events_erased == 1


async def test_a_notice_is_ordered_and_confirmed_by_a_commit(timed_hub: RunningHub, clock: FakeClock) -> None:
    """Recipients get it on the open stream; a commit confirms it; then the id is deleted."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED")
    other, other_reader = await hub.register("TICKET_CREATED")
    one = integration.integration_id
    await hub.emit(by(USER, "t1"))
    stream = await reads(hub, clock, reader, one)
    elsewhere = await opened(other_reader, other.integration_id, latest={})
    erasure = await done(hub.bot, (await erase_user(hub)).erasure_id)
    await hub.emit(by(LONGER, "after"))
    assert (await arrived(hub, clock, stream))[-1] == "after"
    await arrived(hub, clock, elsewhere)
    [told] = erased(stream)
    assert (told.user_id, told.request_time) == (USER, erasure.request_time)
    assert told.deadline.ToMicroseconds() - told.request_time.ToMicroseconds() == 30 * 24 * 3_600 * 10**6
    assert (erased(elsewhere), list(await notices(hub, erasure.erasure_id))) == ([], [one])
    [frame] = [frame for frame in stream.frames if frame.HasField("erased")]
    assert not frame.events
    assert not (await notices(hub, erasure.erasure_id))[one].HasField("confirm_time")
    await commit(reader, stream.frames[-1].cursor, keep_notices=True)
    assert not (await notices(hub, erasure.erasure_id))[one].HasField("confirm_time")
    await commit(reader, stream.frames[-1].cursor)
    confirmed = (await notices(hub, erasure.erasure_id))[one]
    assert confirmed.confirm_time.ToMicroseconds() >= confirmed.sent_time.ToMicroseconds() > 0
    kept = hub.hub.registry.hidden.erasures
    await until(lambda: kept.subject(erasure.erasure_id) is None)
    assert not [entry for entry in await log_of(hub, Kind.STATE) if entry.key.startswith("erased/") and entry.body]


@pytest.mark.parametrize("start", [{"committed": {}}, {"earliest": {}}, {"latest": {}}], ids=" ".join)
async def test_committing_the_cursor_of_the_notice_confirms_it(
    timed_hub: RunningHub, clock: FakeClock, start: dict[str, Any]
) -> None:
    """Also if the stream is behind the notice's position in the log; the frame before it does not confirm."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED")
    one = integration.integration_id
    await hub.emit(by(USER, "t1"))
    stream = await reads(hub, clock, reader, one)
    await commit(reader, next(frame.cursor for frame in stream.frames if frame.events))
    stream.close()
    erasure = await done(hub.bot, (await erase_user(hub)).erasure_id)
    subscriber = await reader.subscribe(**start)
    frame = await subscriber.frame()
    assert frame.HasField("erased")
    await commit(reader, subscriber.frames[0].cursor, force=True)  # of `ready`
    assert not (await notices(hub, erasure.erasure_id))[one].HasField("confirm_time")
    await commit(reader, frame.cursor, force=True)
    assert (await notices(hub, erasure.erasure_id))[one].HasField("confirm_time")


async def test_every_new_stream_repeats_an_unconfirmed_notice(start_hub: StartHub, clock: FakeClock) -> None:
    """Whatever its start, after a restart, too, until it is confirmed; then no more."""
    hub = await start_hub(clock, write_deadline=1e9)
    integration, reader = await hub.register("TICKET_CREATED")
    await hub.emit(by(USER, "t1"))
    (await reads(hub, clock, reader, integration.integration_id)).close()
    erasure = await done(hub.bot, (await erase_user(hub)).erasure_id)
    starts: list[dict[str, Any]] = [{"latest": {}}, {"earliest": {}}]
    for start in starts:
        stream = await reads(hub, clock, reader, integration.integration_id, subscription_id="x", **start)
        assert [frame.WhichOneof("notice") for frame in stream.frames[:2]] == ["ready", "erased"]
        stream.close()
    await hub.close()
    hub = await start_hub(clock, write_deadline=1e9)
    reader = hub.caller(reader.key)
    stream = await reads(hub, clock, reader, integration.integration_id, latest={})
    assert [one.erasure_id for one in erased(stream)] == [erasure.erasure_id]
    await commit(reader, stream.frames[-1].cursor)
    again = await reads(hub, clock, reader, integration.integration_id, subscription_id="y")
    assert erased(again) == []


async def test_a_commit_before_the_notice_confirms_nothing(timed_hub: RunningHub, clock: FakeClock) -> None:
    """The notice was not sent yet, or the cursor lies before it."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED")
    one = integration.integration_id
    await hub.emit(by(USER, "t1"))
    stream = await reads(hub, clock, reader, one)
    old = stream.frames[-1].cursor
    stream.close()
    erasure = await done(hub.bot, (await erase_user(hub)).erasure_id)
    await commit(reader, old)
    assert not (await notices(hub, erasure.erasure_id))[one].HasField("confirm_time")
    await reads(hub, clock, reader, one, subscription_id="x")
    await commit(reader, old, force=True)
    assert not (await notices(hub, erasure.erasure_id))[one].HasField("confirm_time")


async def test_an_unconfirmed_erasure_is_a_finding(start_hub: StartHub, clock: FakeClock) -> None:
    """After 30 days the notice ends, its subject is deleted, and admins see which integrations did not confirm."""
    hub = await start_hub(clock, write_deadline=1e9, retention=365 * 24 * 3_600)
    integration, reader = await hub.register("TICKET_CREATED")
    await hub.emit(by(USER, "t1"))
    (await reads(hub, clock, reader, integration.integration_id)).close()
    erasure = await done(hub.bot, (await erase_guild(hub, "51")).erasure_id)
    clock.wall_offset += 31 * 24 * 3_600 * 10**6
    await until(lambda: hub.hub.registry.hidden.erasures.subject(erasure.erasure_id) is None)
    stream = await reads(hub, clock, reader, integration.integration_id, subscription_id="x")
    assert erased(stream) == []
    findings = (await ask(hub.admin, "AdminService/GetPrivilegeReport")).findings
    assert [one.integration_id for one in findings if one.kind == 7] == [integration.integration_id]


@pytest.mark.parametrize("order", list(itertools.permutations(["sent", "confirmed", "deleted"])))
def test_concurrent_changes_of_a_notice_all_count(order: tuple[str, ...]) -> None:
    """Three tasks, or hubs, change a notice at once, each from the record that was there before: all three count."""
    made = NoticeRecord("e", "i", (DisclosureRecord(Channel.STREAM, 1, 0, 0),))
    writes = {
        "sent": replace(made, sent_time=1, position=7),
        "confirmed": replace(made, sent_time=1, confirm_time=2, position=7),
        "deleted": replace(made, disclosures=(), position=7),
    }
    state = ErasureNotices()
    for position, record in enumerate([made, *(writes[name] for name in order)], 7):
        state.apply(replace(NOTICE.entry(NOTICE.key("e", "i"), 0, record), position=position))
    assert state.of_erasure("e") == [NoticeRecord("e", "i", (), sent_time=1, confirm_time=2, position=7)]
    assert (state.confirmed["i"], state.unconfirmed("i")) == (1, [])


async def test_recipients_are_kept_with_the_erasure(timed_hub: RunningHub, clock: FakeClock) -> None:
    """For 30 days the list has what each one received; then only which integrations have to forget."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("t", 5), lambda name: by(USER, name))
    stream = await reads(hub, clock, reader, integration.integration_id)
    erasure = await done(hub.bot, (await erase_user(hub)).erasure_id)
    found = (await disclosed(hub.admin, user_id=USER))[integration.integration_id]
    assert (found.event_count, list(found.fields), found.confirmed) == (5, ["ticket_created.creator_user_id"], False)
    assert erasure.events_erased == 5
    clock.wall_offset += 29 * DAY
    clock.monotonic_offset += 2 * erasing.SUMMARY_PERIOD
    one = hub.hub.registry.hidden.erasures.notices
    await done(hub.bot, (await erase_user(hub, LONGER)).erasure_id)
    assert [len(notice.disclosures) for notice in one.of_erasure(erasure.erasure_id)] == [1]
    clock.wall_offset += 2 * DAY
    clock.monotonic_offset += 2 * erasing.SUMMARY_PERIOD
    await until(lambda: not one.of_erasure(erasure.erasure_id)[0].disclosures)
    await done(hub.bot, (await erase_user(hub)).erasure_id)  # what was found before is kept for some seconds
    assert await disclosed(hub.bot, user_id=USER, acting_user_id=USER) == {}
    assert list(await notices(hub, erasure.erasure_id)) == [integration.integration_id]
    del stream


async def test_disclosures_are_not_ready_during_an_erasures_search(
    timed_hub: RunningHub, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its events are hidden already: the list must never say that no integration had received them."""

    async def later(*_: object) -> None:
        """Work on no erasure."""

    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED")
    await hub.emit(by(USER, "t1"))
    stream = await reads(hub, clock, reader, integration.integration_id)
    with monkeypatch.context() as patched:
        patched.setattr(Eraser, "_finish", later)
        erasure = await erase_user(hub)
        assert (await refused(hub.admin, "PrivacyService/ListDisclosures", user_id=USER)).reason == NOT_READY
        assert await disclosed(hub.admin, user_id=LONGER) == {}
    await done(hub.admin, erasure.erasure_id)
    found = await disclosed(hub.admin, user_id=USER)
    assert {name: one.event_count for name, one in found.items()} == {integration.integration_id: 1}
    del stream


async def test_a_search_that_an_erasure_overtakes_is_repeated(
    timed_hub: RunningHub, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began before the request and would end after it: some of its events are hidden by then."""
    hub = timed_hub
    integration, reader = await hub.register("TICKET_CREATED")
    await hub.emit(by(USER, "t1"))
    stream = await reads(hub, clock, reader, integration.integration_id)
    asked, may_go = asyncio.Event(), asyncio.Event()
    recipients = Disclosures.recipients

    async def slowly(self: Disclosures, erasure_position: int = 0) -> Recipients:
        """Find the recipients, and wait."""
        found = await recipients(self, erasure_position)
        if not erasure_position:
            asked.set()
            await may_go.wait()
        return found

    monkeypatch.setattr(Disclosures, "recipients", slowly)
    searching = asyncio.create_task(refused(hub.admin, "PrivacyService/ListDisclosures", user_id=USER))
    await asked.wait()
    erasure = await erase_user(hub)
    may_go.set()
    assert (await searching).reason == NOT_READY
    await done(hub.admin, erasure.erasure_id)
    assert list(await disclosed(hub.admin, user_id=USER)) == [integration.integration_id]
    del stream


async def test_a_tail_is_no_disclosure_and_gets_no_notice(timed_hub: RunningHub, clock: FakeClock) -> None:
    """What a tail shows is no disclosure to the integration, and its notices are not the admin's."""
    hub = timed_hub
    integration, _ = await hub.register("TICKET_CREATED")
    await hub.emit(by(USER, "t1"))
    tail = RawStream(hub.admin, integration.integration_id, integration_id=integration.integration_id)
    await arrived(hub, clock, tail)
    assert await disclosed(hub.admin, user_id=USER) == {}


@pytest.mark.parametrize("fields", [{"user_id": "8", "acting_user_id": "9"}, {}, {"user_id": "8"}])
async def test_who_may_ask_for_disclosures(hub: RunningHub, fields: dict[str, str]) -> None:
    """A user cannot ask for another one; the bot can for any; a subject is required."""
    refusal = await refused(hub.bot, "PrivacyService/ListDisclosures", **fields)
    assert refusal.reason == ("NOT_SUBJECT" if len(fields) == 2 else "INVALID_REQUEST")


async def test_the_newest_stream_of_a_subscription_counts_as_open(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that was taken over stays in its write for a while; after a crash what the newest might see counts."""
    monkeypatch.setattr(streams_module, "ENDING_WRITE_TIMEOUT", 1e9)
    hub = await start_hub(max_streams_per_integration=20)
    _, reader = await hub.register("TICKET_CREATED")
    names = ids("s", 8)
    async with standing_still(hub, reader) as slow:
        stuck = [slow.open(subscription_id=name, guild_ids=["51"], earliest={}) for name in names]
        await asyncio.gather(*(stream.frame() for stream in stuck))
        await emit_all(hub, [by("7" * 18, f"{n}-{'x' * 50}") for n in range(2_000)])
        streams = hub.hub.streams
        await until(lambda: all(stream.writes.began for stream in streams.all()))
        newest = [reader.open(subscription_id=name, latest={}) for name in names]
        await asyncio.gather(*(stream.frame() for stream in newest))
        assert len(streams.all()) == 2 * len(names)
        await hub.hub.flush_sent()
        records = hub.hub.registry.readers.sent.records.values()
        assert [held.record.views[held.record.open_view].guilds for held in records] == [()] * len(names)

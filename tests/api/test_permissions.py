"""The permission matrix: every set of scopes x every kind of event, over the wire, against a table written by hand."""

import asyncio
from collections.abc import Sequence

import pytest
from tickets.hub.v1 import admin_service_pb2, event_pb2

from tests.support.events import EVERY_SCOPE, event, numbers
from tests.support.hubs import Caller, FakeClock, RunningHub, StartHub, emit_all, scope_requests
from tests.support.streams import RawStream, settle

SCOPES = dict(zip("trdvsi", EVERY_SCOPE, strict=True))
"""The letters of the table: t(icket created) t(r)anscript d(rop) v(erified) (ticket) s(tats) i(dentity of verified)."""

EVENTS = [
    event("ticket", "41", ticket_created={"creator_user_id": "7001"}),
    event("transcript", "42", transcript_created={"creator_user_id": "7002"}),
    event("drop", "43", drop_claimed={"xp_amount": 7003, "unb_amount": 7004}),
    event("closed", "44", ticket_closed={"message_count": 7005}),
    event("verified", "45", member_verified={"user_id": "7006"}),
    event("somebody", "46", member_verified={}),
]
"""The columns of the table."""

TABLE = """
    ------ ......   t----- F.....   -r---- .F....   tr---- FF....
    --d--- ..F...   t-d--- F.F...   -rd--- .FF...   trd--- FFF...
    ---v-- ....WF   t--v-- F...WF   -r-v-- .F..WF   tr-v-- FF..WF
    --dv-- ..F.WF   t-dv-- F.F.WF   -rdv-- .FF.WF   trdv-- FFF.WF
    ----s- ...F..   t---s- F..F..   -r--s- .F.F..   tr--s- FF.F..
    --d-s- ..FF..   t-d-s- F.FF..   -rd-s- .FFF..   trd-s- FFFF..
    ---vs- ...FWF   t--vs- F..FWF   -r-vs- .F.FWF   tr-vs- FF.FWF
    --dvs- ..FFWF   t-dvs- F.FFWF   -rdvs- .FFFWF   trdvs- FFFFWF
    -----i ....FF   t----i F...FF   -r---i .F..FF   tr---i FF..FF
    --d--i ..F.FF   t-d--i F.F.FF   -rd--i .FF.FF   trd--i FFF.FF
    ---v-i ....FF   t--v-i F...FF   -r-v-i .F..FF   tr-v-i FF..FF
    --dv-i ..F.FF   t-dv-i F.F.FF   -rdv-i .FF.FF   trdv-i FFF.FF
    ----si ...FFF   t---si F..FFF   -r--si .F.FFF   tr--si FF.FFF
    --d-si ..FFFF   t-d-si F.FFFF   -rd-si .FFFFF   trd-si FFFFFF
    ---vsi ...FFF   t--vsi F..FFF   -r-vsi .F.FFF   tr-vsi FF.FFF
    --dvsi ..FFFF   t-dvsi F.FFFF   -rdvsi .FFFFF   trdvsi FFFFFF
"""
"""Who has the scopes on the left gets, of EVENTS: F the full event, W it without the user, . nothing."""

MATRIX = dict(zip(TABLE.split()[::2], TABLE.split()[1::2], strict=True))


def scopes_of(letters: str) -> list[str]:
    """The scopes of a row."""
    return [SCOPES[letter] for letter in letters if letter != "-"]


def outcome(stream: RawStream, events: Sequence[event_pb2.Event] = EVENTS) -> str:
    """What a stream brought, in the letters of the table; fails where an event is anything else, or comes twice."""
    got = {shown.id: shown for shown in stream.events}
    assert [shown.id for shown in stream.events] == [sent.id for sent in events if sent.id in got]
    letters = ""
    for sent in events:
        if sent.id not in got:
            letters += "."
            continue
        shown = got[sent.id]
        for hub_made in ("accept_time", "occur_time"):
            assert shown.HasField(hub_made)
            shown.ClearField(hub_made)
        letters += "F" if shown == sent else "W"
        if letters[-1] == "W":
            assert shown == event(sent.id, sent.guild_id, member_verified={})
    return letters


def withheld(letters: str) -> list[str]:
    """What Ready says is withheld from a row: the user, where `v` stands without `i`."""
    return ["member_verified.user_id"] if "v" in letters and "i" not in letters else []


@pytest.fixture
def clock() -> FakeClock:
    """The hub's clock."""
    return FakeClock()


@pytest.fixture
async def wide_hub(start_hub: StartHub, clock: FakeClock) -> RunningHub:
    """A hub that lets one integration open a stream for each row."""
    return await start_hub(clock, max_streams_per_integration=len(MATRIX), max_subscriptions=len(MATRIX))


async def registered(hub: RunningHub, letters: str) -> tuple[str, Caller]:
    """An integration with the scopes of a row: the row without any begins with one and has it taken away."""
    integration, caller = await hub.register(*(scopes_of(letters) or ["TICKET_CREATED"]))
    if not scopes_of(letters):
        request = admin_service_pb2.SetScopesRequest(integration_id=integration.integration_id, scopes=[])
        await hub.admin.call("AdminService/SetScopes", request)
    return integration.integration_id, caller


async def opened(who: dict[str, tuple[str, Caller]], **request: object) -> dict[str, RawStream]:
    """A stream for each row, open, and saying of itself what the row is."""
    streams = {
        letters: RawStream(caller, integration_id, **request) for letters, (integration_id, caller) in who.items()
    }
    for letters, stream in streams.items():
        ready = await stream.ready()
        assert list(ready.effective_scopes) == numbers(*scopes_of(letters))
        assert list(ready.withheld_fields) == withheld(letters)
    return streams


def test_the_table_has_every_set_of_scopes_once() -> None:
    """The table has each of the 64 sets of scopes once, and a letter for each event."""
    assert len(TABLE.split()) == 2 * len(MATRIX) == 2 * 64
    assert {len(letters) for letters in MATRIX.values()} == {len(EVENTS)}


async def test_every_set_of_scopes_delivers_its_row_of_the_table(wide_hub: RunningHub, clock: FakeClock) -> None:
    """64 integrations, live and once more from the beginning: each gets exactly its row."""
    who = dict(zip(MATRIX, await asyncio.gather(*(registered(wide_hub, row) for row in MATRIX)), strict=True))
    live = await opened(who, latest={})
    await emit_all(wide_hub, EVENTS)
    await settle(wide_hub, clock, list(live.values()))
    assert {row: outcome(stream) for row, stream in live.items()} == MATRIX
    again = await opened(who, earliest={}, subscription_id="again")
    await settle(wide_hub, clock, list(again.values()))
    assert {row: outcome(stream) for row, stream in again.items()} == MATRIX


async def test_a_narrowed_stream_acts_as_if_only_its_scopes_were_granted(
    wide_hub: RunningHub, clock: FakeClock
) -> None:
    """One integration with every scope, a stream narrowed to each set: fields are withheld accordingly."""
    integration, caller = await wide_hub.register(*EVERY_SCOPE)
    narrowed = {row: letters for row, letters in MATRIX.items() if scopes_of(row)}
    streams = {
        row: RawStream(
            caller, integration.integration_id, scopes=numbers(*scopes_of(row)), subscription_id=row, latest={}
        )
        for row in narrowed
    }
    for row, stream in streams.items():
        assert list((await stream.ready()).withheld_fields) == withheld(row)
    await emit_all(wide_hub, EVENTS)
    await settle(wide_hub, clock, list(streams.values()))
    assert {row: outcome(stream) for row, stream in streams.items()} == narrowed


async def test_scopes_set_while_a_stream_is_open_apply_from_then_on(wide_hub: RunningHub, clock: FakeClock) -> None:
    """Row after row on one open stream: events emitted under a row arrive as that row says."""
    integration, caller = await wide_hub.register("TICKET_CREATED")
    stream = RawStream(caller, integration.integration_id, latest={})
    await stream.ready()
    for row, letters in MATRIX.items():
        request = admin_service_pb2.SetScopesRequest(
            integration_id=integration.integration_id, scopes=scope_requests(*scopes_of(row))
        )
        await wide_hub.admin.call("AdminService/SetScopes", request)
        await emit_all(wide_hub, under(row))
        stream.frames.clear()
        await settle(wide_hub, clock, [stream])
        assert outcome(stream, under(row)) == letters


def under(row: str) -> list[event_pb2.Event]:
    """EVENTS with ids of a row's own."""
    events = [event_pb2.Event.FromString(one.SerializeToString()) for one in EVENTS]
    for one in events:
        one.id = f"{row}:{one.id}"
    return events

"""Random schedules of events, permissions, readers and restarts against a real hub; then the promises are checked.

The model of who may see what stands here for itself: it reads the log's entries of an integration, and knows the
contract's table by heart.
"""

import os
import random
from collections import Counter
from collections.abc import Mapping

import pytest
from msgspec import json
from tickets.hub.v1 import event_pb2, permissions_pb2, privacy_service_pb2

from hub.delivery.cursor import CursorSeal
from hub.model import Change, Entry, IntegrationRecord, Kind
from hub.webhooks import schedule
from tests.support.hubs import RunningHub, StartHub, log_of
from tests.support.receivers import ALLOWED
from tests.support.schedule_endpoints import Endpoint
from tests.support.schedules import Reader, World, user_of
from tests.torture.conftest import rounds

SCHEDULES_A_HUB = 20
STEPS = 25
S = permissions_pb2.Scope.Value
DELIVERED_TO = {
    "ticket_created": {S("SCOPE_TICKET_CREATED")},
    "drop_claimed": {S("SCOPE_DROP_CLAIMED")},
    "member_verified": {S("SCOPE_MEMBER_VERIFIED"), S("SCOPE_MEMBER_VERIFIED_IDENTITY")},
    "ticket_closed": {S("SCOPE_TICKET_STATS")},
}
IDENTITY = S("SCOPE_MEMBER_VERIFIED_IDENTITY")
STREAM = privacy_service_pb2.DISCLOSURE_CHANNEL_STREAM
WEBHOOK = privacy_service_pb2.DISCLOSURE_CHANNEL_WEBHOOK


class Model:
    """What the log says about one integration: which scopes it had at each place, since which place each."""

    def __init__(self, entries: list[Entry], integration_id: str) -> None:
        self._records = [
            (entry.position, json.decode(json.decode(entry.body, type=Change).record, type=IntegrationRecord))
            for entry in entries
            if entry.key == f"integration/{integration_id}"
        ]

    def since(self, position: int) -> Mapping[int, int]:
        """The scopes in force at a place, each with the place from which it counts without a break."""
        held: dict[int, int] = {}
        for at, record in self._records:
            if at <= position:
                held = {grant.scope: held.get(grant.scope, at) for grant in record.grants}
        return held


def shown(event: event_pb2.Event, since: Mapping[int, int], position: int) -> event_pb2.Event | None:
    """An event as these scopes show it, or None."""
    scopes = {scope for scope, start in since.items() if start < position}
    if not scopes & DELIVERED_TO[event.WhichOneof("payload") or ""]:
        return None
    copy = event_pb2.Event()
    copy.CopyFrom(event)
    if IDENTITY not in scopes:
        copy.member_verified.ClearField("user_id") if copy.HasField("member_verified") else None
    return copy


def plain(event: event_pb2.Event) -> event_pb2.Event:
    """An event without the times that the hub added."""
    copy = event_pb2.Event()
    copy.CopyFrom(event)
    copy.ClearField("accept_time")
    copy.ClearField("occur_time")
    return copy


async def check(world: World) -> None:
    """The invariants."""
    entries = await log_of(world.hub)
    mine = [entry for entry in entries if entry.kind is Kind.EVENT and entry.id in world.acknowledged]
    positions = {entry.id: entry.position for entry in mine}
    assert len(mine) == len(positions), "an id has two positions"
    assert positions.keys() == world.acknowledged.keys() - world.erased, (
        "an acknowledged event is missing, or not erased"
    )
    seal = CursorSeal((await world.hub.hub.log.secrets())[0])
    for integration in world.integrations:
        model = Model(entries, integration.integration_id)
        final = model.since(entries[-1].position)
        due = [
            wanted
            for entry in mine
            if (wanted := shown(world.acknowledged[entry.id], final, entry.position)) is not None
        ]
        *followers, replay = world.readers[integration.integration_id]
        assert [plain(event) for event in replay.events()] == due, "a replay is not what the scopes cover"
        for reader in followers:
            check_follower(reader, model, positions, world.acknowledged, seal)
            check_live(reader, due)
        check_endpoint(world.endpoints[integration.integration_id], model, positions, world.acknowledged, due)
    check_erasures(world)
    check_disclosures(world)


def check_endpoint(
    endpoint: Endpoint,
    model: Model,
    positions: Mapping[str, int],
    emitted: Mapping[str, event_pb2.Event],
    due: list[event_pb2.Event],
) -> None:
    """What a receiver was posted: all that is due, in order, some of it twice, and no more than it might see then."""
    kept = [event.id for body in endpoint.posted if body.is_kept for event in body.events]
    first = [positions[name] for name in dict.fromkeys(kept) if name in positions]
    assert first == sorted(first), "an event was posted out of order"
    assert {event.id for event in due} <= set(kept), "an event was not posted"
    for limits, events, _ in endpoint.posted:
        assert limits.is_open or not events, "an event was posted while the integration was closed"
        for event in events:
            assert event.id not in limits.erased, "an erased event was posted"
            position = positions.get(event.id, 0)
            since = {scope: at for scope, at in model.since(position).items() if scope in limits.scopes}
            allowed = shown(emitted[event.id], since, position) if position else event
            assert allowed is not None, "an event was posted that was not to be seen"
            assert fields_of(event) <= fields_of(allowed), "a field too many was posted"


def check_erasures(world: World) -> None:
    """No stream that was opened after an answer brought what was erased; whoever had it gets a notice."""
    known: dict[str, frozenset[str]] = {}
    for number, erased in enumerate(world.erasures):
        names = erased.names - known.get(erased.user_id, frozenset())
        known[erased.user_id] = erased.names
        for integration_id, readers in world.readers.items():
            received = [(one.since, event) for reader in readers for one in reader.received for event in one.events]
            mine = [(since, event) for since, event in received if event.id in names]
            assert not [event.id for since, event in mine if since > number], "an erased event was sent"
            posted = [event for body in world.endpoints[integration_id].posted for event in body.events]
            was_told = any(user_of(event) for event in [*(event for _, event in mine), *posted] if event.id in names)
            assert not was_told or integration_id in world.notices[erased.erasure_id], (
                "it received the event, and got no notice"
            )


def check_disclosures(world: World) -> None:
    """Whoever received something of a user, by a stream or by a URL, is listed with at least as many events."""
    for user, disclosures in world.disclosures.items():
        counts: Counter[tuple[str, int]] = Counter()
        for one in disclosures:
            counts[one.integration_id, one.by] += one.event_count
        for integration_id, readers in world.readers.items():
            streamed = [event for reader in readers for event in reader.events()]
            posted = [event for body in world.endpoints[integration_id].posted for event in body.events]
            for by, events in ((STREAM, streamed), (WEBHOOK, posted)):
                names = {event.id for event in events if user_of(event) == user}
                assert counts[integration_id, by] >= len(names), "an event was received, and is not disclosed"


def check_live(reader: Reader, due: list[event_pb2.Event]) -> None:
    """All that a replay brings came live, too; with more fields where more was granted at the time."""
    names = {event.id for event in due}
    live = [event for event in reader.events() if event.id in names]
    assert [event.id for event in live] == [event.id for event in due], "live is not what replay is"
    for event, wanted in zip(live, due, strict=True):
        assert fields_of(wanted) <= fields_of(event), "a field is missing"


def fields_of(event: event_pb2.Event) -> set[str]:
    """The fields of the payload that are there."""
    payload = getattr(event, event.WhichOneof("payload") or "")
    return {field.name for field, _ in payload.ListFields()}


def check_follower(
    reader: Reader,
    model: Model,
    positions: Mapping[str, int],
    emitted: Mapping[str, event_pb2.Event],
    seal: CursorSeal,
) -> None:
    """What one reader received, over all its streams: in order, once, and never more than it might see."""
    places = [seal.open(one.cursor).position for one in reader.received]
    assert places == sorted(places), "a cursor went backwards"
    kept = [event for event in reader.events() if event.id in positions]
    got = [positions[event.id] for event in kept]
    assert got == sorted(set(got)), "an event came twice, or out of order"
    for event in kept:
        position = positions[event.id]
        allowed = shown(emitted[event.id], model.since(position), position)
        assert allowed is not None, "an event came that was not to be seen"
        assert fields_of(event) <= fields_of(allowed), "a field too many"


async def play(seed: int, hub: RunningHub, restart: StartHub) -> RunningHub:
    """One schedule; returns the hub that runs in the end."""
    running = [hub]

    async def again() -> RunningHub:
        await running[-1].close()
        running.append(await restart())
        return running[-1]

    rng = random.Random(seed)  # noqa: S311  it chooses actions
    world = World(hub, again, rng)
    try:
        await world.begin()
        for _ in range(STEPS):
            await world.act()
        if rng.random() < 0.2:
            await world.restart()
            for _ in range(STEPS // 2):
                await world.act()
        await world.settle()
        await check(world)
    except BaseException as error:
        error.add_note(f"the schedule's seed: SCHEDULE={seed}")
        raise
    return running[-1]


@pytest.mark.parametrize("part", range(rounds(5, 250)))
async def test_the_promises_hold_for_random_schedules(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch, part: int
) -> None:
    """Acknowledged events are kept, ids have one position, cursors ascend, views hold, live equals replay.

    SCHEDULE=seed repeats one schedule.
    """
    del part
    monkeypatch.setattr(schedule, "BACK_OFF", (0.01,))
    chosen = os.environ.get("SCHEDULE")
    seeds = [int(chosen)] if chosen else [random.randrange(2**32) for _ in range(SCHEDULES_A_HUB)]  # noqa: S311  seeds

    async def start() -> RunningHub:
        return await start_hub(window_bytes=64 * 1024, drain_time=0.2, max_emit_backlog=10_000, **ALLOWED)

    hub = await start()
    for seed in seeds:
        hub = await play(seed, hub, start)

"""Both clients against a real hub process: killed, drained, frozen, cut off, and changed by an admin."""

import asyncio
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from tickets.hub.v1.admin_service_pb2 import RotateKeyRequest, SetScopesRequest
from tickets.hub.v1.event_pb2 import Event, MemberVerified
from tickets.hub.v1.event_service_pb2 import Erased, Gap, Goodbye, GrantsChanged, Heartbeat, Ready
from tickets.hub.v1.integration_pb2 import ScopeRequest
from tickets.hub.v1.permissions_pb2 import SCOPE_MEMBER_VERIFIED, SCOPE_TICKET_STATS
from tickets_hub import Client, HubCallError, Notice, Reconnecting, Start
from tickets_hub.aio_client import AsyncClient
from tickets_hub.requests import SubscribeOptions
from tickets_hub.transport import CHANNEL_OPTIONS

from hub.delivery.cursor import CursorSeal
from hub.model import Cursor
from tests.support.calls import ask
from tests.support.events import closed
from tests.support.faults import HubProxy
from tests.support.hubs import RunningHub, StartHub
from tests.support.privacy import USER, by, done, erase_user
from tests.support.real_hub import PATIENCE, POLICY, Reading, RealHub


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealHub]:
    """A real hub with a data directory of its own."""
    hub = RealHub(tmp_path)
    yield hub
    hub.close()


def test_a_killed_hub_loses_and_repeats_no_event(real: RealHub) -> None:
    """Kill -9, an emit meanwhile, a restart: the bot's call succeeds, and each event arrives once."""
    _, key = real.register()
    bot, reading = real.bot, Reading(real.client(key), start=Start.earliest())
    bot.emit_batch(closed(f"a{i}") for i in range(3))
    assert reading.ids(3) == ["a0", "a1", "a2"]
    real.end(signal.SIGKILL)
    reading.notice(Reconnecting)
    emitting = threading.Thread(target=bot.emit, args=(closed("b"),))
    emitting.start()
    real.start()
    emitting.join(PATIENCE)
    bot.emit(closed("c"))
    assert reading.ids(2) == ["b", "c"]
    assert reading.got.empty()


def test_a_client_returns_to_a_drained_hub(real: RealHub) -> None:
    """SIGTERM: the client gets a Goodbye, comes back after its delay, and resumes."""
    _, key = real.register()
    bot, reading = real.bot, Reading(real.client(key))
    bot.emit(closed("a"))
    assert reading.ids(1) == ["a"]
    assert real.end(signal.SIGTERM) == 0
    goodbye = reading.notice(Goodbye)
    assert isinstance(goodbye, Goodbye)
    assert goodbye.reconnect
    real.start()
    bot.emit(closed("b"))
    assert reading.ids(1) == ["b"]


async def test_both_clients_support_linger(real: RealHub) -> None:
    """Ready says how long the hub really lets events wait."""
    _, key = real.register()
    real.bot.emit(closed("a"))
    said: list[Notice] = []
    options: SubscribeOptions = {"start": Start.earliest(), "heartbeat_interval": 1, "linger": 5}
    with real.client(key).subscribe(on_notice=said.append, **options) as subscription:
        assert await asyncio.to_thread(next, subscription)
    async with AsyncClient(real.address, key) as client, client.subscribe(on_notice=said.append, **options) as events:
        assert await anext(events)
    assert [one.linger.ToMilliseconds() for one in said if isinstance(one, Ready)] == [900, 900]


def test_a_frozen_hub_is_detected_by_its_silence(real: RealHub) -> None:
    """The connection is up, nothing moves: after two heartbeats and the slack the stream is opened again."""
    _, key = real.register()
    bot, reading = real.bot, Reading(real.client(key), heartbeat_interval=1)
    bot.emit(closed("a"))
    assert reading.ids(1) == ["a"]
    real.process.send_signal(signal.SIGSTOP)
    broken = reading.notice(Reconnecting)
    assert isinstance(broken, Reconnecting)
    assert broken.error.message == "no frame for 2.5 s"
    real.process.send_signal(signal.SIGCONT)
    bot.emit(closed("b"))
    assert reading.ids(1) == ["b"]


def test_a_rotated_key_ends_the_subscription_with_the_reason(real: RealHub) -> None:
    """Not as a permission problem, not silently, and without another attempt."""
    integration_id, key = real.register()
    reading = Reading(real.client(key))
    stub, admin = real.admin()
    request = RotateKeyRequest(integration_id=integration_id, overlap=Duration())
    new_key = stub.RotateKey(request, metadata=admin.metadata, timeout=PATIENCE).key.secret
    error = reading.got.get(timeout=PATIENCE)
    assert isinstance(error, HubCallError)
    assert (error.code, error.reason) == ("UNAUTHENTICATED", "KEY_REVOKED")
    assert reading.got.get(timeout=PATIENCE) == "end"
    resumed = Reading(real.client(new_key), start=Start.cursor(reading.subscription.cursor))
    real.bot.emit(closed("a"))
    assert resumed.ids(1) == ["a"]


def test_grants_changed_is_delivered_and_the_stream_continues(real: RealHub) -> None:
    """The integration learns what it gained and lost; events follow the new scopes."""
    integration_id, key = real.register()
    reading = Reading(real.client(key))
    stub, admin = real.admin()
    scopes = [ScopeRequest(scope=SCOPE_MEMBER_VERIFIED, justification="for the tests")]
    stub.SetScopes(
        SetScopesRequest(integration_id=integration_id, scopes=scopes, reason="test"),
        metadata=admin.metadata,
        timeout=PATIENCE,
    )
    changed = reading.notice(GrantsChanged)
    assert isinstance(changed, GrantsChanged)
    assert (list(changed.added), list(changed.removed)) == ([SCOPE_MEMBER_VERIFIED], [SCOPE_TICKET_STATS])
    real.bot.emit(closed("withheld"))
    real.bot.emit(Event(id="v", guild_id="1", member_verified=MemberVerified(user_id="7")))
    verified = reading.got.get(timeout=PATIENCE)
    assert verified.id == "v" and not verified.member_verified.HasField("user_id")  # type: ignore[union-attr]  # noqa: PT018  one fact


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"scopes": ["drop_claimed"]}, "SCOPE_NOT_GRANTED"),
        ({"start": Start.cursor("garbage")}, "CURSOR_INVALID"),
        ({"guild_ids": ["x"]}, "INVALID_REQUEST"),
        ({"heartbeat_interval": 3_600}, "INVALID_REQUEST"),
    ],
)
def test_a_wrong_request_fails_at_once_with_its_reason(real: RealHub, wanted: dict[str, object], reason: str) -> None:
    """A developer's mistake is raised at once, not retried in the background."""
    _, key = real.register()
    with pytest.raises(HubCallError) as raised:
        next(real.client(key).subscribe(**wanted))  # type: ignore[arg-type]  # a table's column
    assert raised.value.reason == reason
    assert bool(raised.value.violations) == (reason == "INVALID_REQUEST")


def test_emit_distinguishes_duplicates_from_conflicts(real: RealHub) -> None:
    """The same event again succeeds; another event with its id does not."""
    bot = real.bot
    first = bot.emit(closed("a"))
    again = bot.emit(closed("a"))
    assert (first.duplicate, again.duplicate, again.accept_time) == (False, True, first.accept_time)
    other = Event(id="a", guild_id="2", member_verified=MemberVerified(user_id="7"))
    with pytest.raises(HubCallError) as raised:
        bot.emit(other)
    assert raised.value.reason == "EVENT_ID_CONFLICT"


def test_auto_commit_lets_the_next_run_resume(real: RealHub) -> None:
    """The first run starts at the latest event; the second begins with what happened between the two."""
    _, key = real.register()
    bot = real.bot
    with Client(real.address, key, policy=POLICY) as first:
        reading = Reading(first, auto_commit=True, subscription_id="mine", heartbeat_interval=1)
        bot.emit(closed("a"))
        assert reading.ids(1) == ["a"]
        reading.notice(Heartbeat)
    bot.emit(closed("between"))
    second = Reading(real.client(key), auto_commit=True, subscription_id="mine")
    assert second.ids(1) == ["between"]


async def test_auto_commit_of_the_asyncio_client_lets_the_next_run_resume(real: RealHub) -> None:
    """A run that gets no event still commits its start; `committed` finds it."""
    _, key = real.register()
    ready = asyncio.Event()
    async with AsyncClient(real.address, key, policy=POLICY) as first:
        subscription = first.subscribe(auto_commit=True, on_notice=lambda _: ready.set())
        reading = asyncio.create_task(anext(subscription, None))
        await asyncio.wait_for(ready.wait(), PATIENCE)
    assert await reading is None
    real.bot.emit(closed("between"))
    async with AsyncClient(real.address, key, policy=POLICY) as second:
        resumed = second.subscribe(start=Start.committed())
        assert (await asyncio.wait_for(anext(resumed), PATIENCE)).id == "between"


async def test_auto_commit_survives_a_restore(start_hub: StartHub) -> None:
    """A cursor that predates a restore: a Gap, then all that is kept; the next run resumes after what was processed."""
    hub = await start_hub()
    _, reader = await hub.register("TICKET_STATS")
    notices: list[Notice] = []
    before = CursorSeal((await hub.hub.log.secrets())[0]).seal(Cursor(4711, 1, 1)).decode()
    for name in "ab":
        await hub.emit(closed(name))
    async with AsyncClient(hub.address, reader.key, policy=POLICY) as first:
        subscription = first.subscribe(
            auto_commit=True,
            start=Start.cursor(before),
            on_expired_cursor="earliest",
            max_batch_size=1,
            on_notice=notices.append,
        )
        assert [(await asyncio.wait_for(anext(subscription), PATIENCE)).id for _ in "ab"] == ["a", "b"]
        assert any(isinstance(notice, Gap) for notice in notices)
    async with AsyncClient(hub.address, reader.key, policy=POLICY) as second:
        resumed = second.subscribe(start=Start.committed())
        assert (await asyncio.wait_for(anext(resumed), PATIENCE)).id == "b"


def test_starting_at_committed_without_a_commit_fails(real: RealHub) -> None:
    """Rather than starting anywhere: the developer asked for a cursor that does not exist."""
    _, key = real.register()
    with pytest.raises(HubCallError) as raised:
        next(real.client(key).subscribe(start=Start.committed()))
    assert raised.value.reason == "SUBSCRIPTION_NOT_FOUND"


def test_a_newer_reader_takes_over_and_the_older_does_not_return(real: RealHub) -> None:
    """Otherwise two readers would take the subscription from each other forever."""
    _, key = real.register()
    older = Reading(real.client(key))
    newer = Reading(real.client(key))
    error = older.got.get(timeout=PATIENCE)
    assert isinstance(error, HubCallError)
    assert error.reason == "SUBSCRIPTION_TAKEN_OVER"
    real.bot.emit(closed("a"))
    assert newer.ids(1) == ["a"]


async def test_a_dropped_connection_is_reopened(real: RealHub) -> None:
    """A proxy drops the connection silently, and accepts none for a while."""
    _, key = real.register()
    bot = real.bot
    async with HubProxy(real.port) as proxy, AsyncClient(proxy.address, key, policy=POLICY) as client:
        alive, broken = asyncio.Event(), asyncio.Event()

        def hear(notice: Notice) -> None:
            (broken if isinstance(notice, Reconnecting) else alive).set()

        subscription = client.subscribe(start=Start.earliest(), on_notice=hear)
        bot.emit(closed("a"))
        assert (await asyncio.wait_for(anext(subscription), PATIENCE)).id == "a"
        reading = asyncio.create_task(anext(subscription))
        proxy.cut()
        await asyncio.wait_for(broken.wait(), PATIENCE)
        bot.emit(closed("b"))
        proxy.mend()
        assert (await asyncio.wait_for(reading, PATIENCE)).id == "b"


async def test_a_half_open_connection_is_replaced(real: RealHub) -> None:
    """A half-open connection: another stream on it would hang as well; the pings find out, not only the watchdog.

    With the keepalive that is the default this takes 25 s, with that of gRPC alone 80 s; the test's is shorter.
    """
    _, key = real.register()
    brisk = [("grpc.keepalive_time_ms", 1_000), ("grpc.keepalive_timeout_ms", 500), ("grpc.http2.ping_timeout_ms", 500)]
    assert {name for name, _ in brisk} <= dict(CHANNEL_OPTIONS).keys()
    async with (
        HubProxy(real.port) as proxy,
        AsyncClient(proxy.address, key, policy=POLICY, options=brisk) as client,
        client.subscribe(start=Start.earliest(), heartbeat_interval=60) as subscription,
    ):
        real.bot.emit(closed("a"))
        assert (await asyncio.wait_for(anext(subscription), PATIENCE)).id == "a"
        proxy.freeze()
        real.bot.emit(closed("b"))
        assert (await asyncio.wait_for(anext(subscription), PATIENCE)).id == "b"


async def heard(hub: RunningHub, key: str, *, threads: bool, last: str, **options: Any) -> None:  # noqa: ANN401  of subscribe
    """Read up to an event with `auto_commit`, in a thread or as a task, and close the client."""
    if threads:

        def read() -> None:
            with Client(hub.address, key, policy=POLICY) as client:
                next(event for event in client.subscribe(auto_commit=True, **options) if event.id == last)

        await asyncio.to_thread(read)
        return
    async with AsyncClient(hub.address, key, policy=POLICY) as client:
        async for event in client.subscribe(auto_commit=True, **options):
            if event.id == last:
                return


@pytest.mark.parametrize("threads", [True, False])
async def test_an_erasure_is_confirmed_only_with_a_handler(start_hub: StartHub, threads: bool) -> None:  # noqa: FBT001  of pytest
    """Not by `on_notice`, nor by a handler that fails; without a handler the client logs a warning each time."""
    hub = await start_hub()
    integration, reader = await hub.register("TICKET_CREATED")
    await hub.emit(by(USER, "mine"))
    await heard(hub, reader.key, threads=threads, last="mine", start=Start.earliest())
    erasure = await done(hub.bot, (await erase_user(hub)).erasure_id)
    got: list[Erased] = []
    notices: list[object] = []

    def fail(erased: Erased) -> None:
        got.append(erased)
        raise RuntimeError("the disk is full")

    async def confirmed() -> bool:
        [notice] = (await ask(hub.bot, "PrivacyService/GetErasure", erasure_id=erasure.erasure_id)).erasure.notices
        assert notice.integration_id == integration.integration_id
        return bool(notice.HasField("confirm_time"))

    for name in ("a", "b"):
        await hub.emit(by("7", name))
        await heard(hub, reader.key, threads=threads, last=name, on_notice=notices.append)
        assert not await confirmed()
    with pytest.raises(RuntimeError, match="the disk is full"):
        await heard(hub, reader.key, threads=threads, last="c", on_erased=fail)
    assert not await confirmed()
    await hub.emit(by("7", "c"))
    await heard(hub, reader.key, threads=threads, last="c", on_notice=notices.append, on_erased=got.append)
    assert await confirmed()
    assert [(one.user_id, one.erasure_id) for one in got] == [(USER, erasure.erasure_id)] * 2
    assert not [one for one in notices if isinstance(one, Erased)]

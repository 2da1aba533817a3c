"""The asynchronous client, and the synchronous one once more, against a scripted server on loopback."""

import asyncio
import socket
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from tickets.hub.v1.event_service_pb2 import (
    BatchEmitEventsRequest,
    BatchEmitEventsResponse,
    CommitCursorRequest,
    CommitCursorResponse,
    EmitEventRequest,
    EmitEventResponse,
    Heartbeat,
    SubscribeRequest,
    SubscribeResponse,
)
from tickets.hub.v1.event_service_pb2_grpc import EventServiceServicer, add_EventServiceServicer_to_server
from tickets_hub import AsyncClient, Client, HubCallError, Notice, Policy, Reconnecting, Start

from tests.support.events import closed
from tests.support.scripted_hub import TRAILER, details, frame, goodbye, heartbeat, ready

POLICY = Policy(first_delay=0.001, max_delay=0.002, slack=0.05, open_timeout=10)
"""Real time, but little of it."""

End = tuple[grpc.StatusCode, bytes | None]
LOST: End = (grpc.StatusCode.UNAVAILABLE, None)


class Peer:
    """One stream, seen from the hub: what the client asked, and a way to feed it."""

    def __init__(self, request: SubscribeRequest, metadata: dict[str, str | bytes]) -> None:
        self.request = request
        self.metadata = metadata
        self.script = asyncio.Queue[SubscribeResponse | End]()
        self.gone = asyncio.Event()

    def send(self, *steps: SubscribeResponse | End) -> "Peer":
        """Frames to send, or the status to end with."""
        for step in steps:
            self.script.put_nowait(step)
        return self


class ScriptedHub(EventServiceServicer):
    """Speaks the contract as each test scripts it."""

    def __init__(self) -> None:
        self.address = ""
        self.peers = asyncio.Queue[Peer]()
        self.emitted: list[EmitEventRequest | BatchEmitEventsRequest] = []
        self.refusals: list[End] = []
        self.refuse_from = 0  # calls of BatchEmitEvents from this one on are refused; 0 = none
        self.answers: int | None = None  # results of BatchEmitEvents at most; None = one for each event
        self.arrived = asyncio.Event()
        self.blocked = asyncio.Event()  # EmitEvent and CommitCursor answer once it is set
        self.blocked.set()
        self.commits = asyncio.Queue[CommitCursorRequest]()

    async def peer(self) -> Peer:
        """The next stream that a client opens."""
        async with asyncio.timeout(10):
            return await self.peers.get()

    async def Subscribe(self, request: SubscribeRequest, context: Any) -> None:  # type: ignore[override]  # noqa: ANN401, N802  the generated name; the stubs know no coroutine that writes
        """Do as the script says."""
        peer = Peer(request, dict(context.invocation_metadata()))
        self.peers.put_nowait(peer)
        try:
            while isinstance(step := await peer.script.get(), SubscribeResponse):
                await context.write(step)
            await refuse(context, step)
        finally:
            peer.gone.set()

    async def EmitEvent(self, request: EmitEventRequest, context: Any) -> EmitEventResponse:  # noqa: ANN401, N802
        """Refuse as scripted, then accept."""
        self.emitted.append(request)
        self.arrived.set()
        await self.blocked.wait()
        if self.refusals:
            await refuse(context, self.refusals.pop(0))
        return EmitEventResponse(event_id=request.event.id)

    async def BatchEmitEvents(self, request: BatchEmitEventsRequest, context: Any) -> BatchEmitEventsResponse:  # noqa: ANN401, N802
        """Refuse as scripted, then accept."""
        self.emitted.append(request)
        batches = sum(isinstance(emitted, BatchEmitEventsRequest) for emitted in self.emitted)
        if self.refuse_from and batches >= self.refuse_from:
            await refuse(context, (grpc.StatusCode.INVALID_ARGUMENT, None))
        if self.refusals:
            await refuse(context, self.refusals.pop(0))
        answered = request.events[: self.answers]
        return BatchEmitEventsResponse(results=[EmitEventResponse(event_id=e.id) for e in answered])

    async def CommitCursor(self, request: CommitCursorRequest, context: Any) -> CommitCursorResponse:  # noqa: ANN401, N802
        """Refuse as scripted, then accept."""
        self.commits.put_nowait(request)
        await self.blocked.wait()
        if self.refusals:
            await refuse(context, self.refusals.pop(0))
        return CommitCursorResponse(cursor=request.cursor, committed=True)


async def refuse(context: Any, end: End) -> None:  # noqa: ANN401  the stubs' context is no type that exists at run time
    """End a call with a status and its details."""
    code, status = end
    if code is not grpc.StatusCode.OK:
        await context.abort(code, "scripted", ((TRAILER, status),) if status else ())


@pytest.fixture
async def hub() -> AsyncIterator[ScriptedHub]:
    """A scripted hub on a free port of loopback."""
    scripted = ScriptedHub()  # type: ignore[abstract]  # what no test calls answers UNIMPLEMENTED
    server = grpc.aio.server()
    add_EventServiceServicer_to_server(scripted, server)
    scripted.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield scripted
    await server.stop(0)


@pytest.fixture
async def client(hub: ScriptedHub) -> AsyncIterator[AsyncClient]:
    """A client of it."""
    async with AsyncClient(hub.address, "tkt_key", policy=POLICY) as connected:
        yield connected


async def test_events_arrive_in_order_with_notices_beside_them(hub: ScriptedHub, client: AsyncClient) -> None:
    """The plain case, and the calls that the hub gets."""
    notices: list[Notice] = []
    subscription = client.subscribe(start=Start.latest(), on_notice=notices.append)
    reading = asyncio.create_task(anext(subscription))
    peer = (await hub.peer()).send(ready(), heartbeat("c1"), frame("c2", "a", "b"))
    assert await reading == closed("a")
    assert subscription.cursor == "c1"
    assert await anext(subscription) == closed("b")
    assert subscription.cursor == "c2"
    assert [type(n).__name__ for n in notices] == ["Ready", "Heartbeat"]
    assert peer.metadata["authorization"] == "Bearer tkt_key"
    assert peer.request.WhichOneof("start") == "latest"


@pytest.mark.parametrize("end", [LOST, (grpc.StatusCode.OK, None), (grpc.StatusCode.INTERNAL, None)])
async def test_a_broken_stream_is_resumed(hub: ScriptedHub, client: AsyncClient, end: End) -> None:
    """The client resumes after the last event handed over, whatever the transport said, and logs it."""
    notices: list[Notice] = []
    subscription = client.subscribe(on_notice=notices.append)
    reading = asyncio.create_task(anext(subscription))
    (await hub.peer()).send(ready(), frame("c1", "a"), end)
    assert await reading == closed("a")
    reading = asyncio.create_task(anext(subscription))
    again = await hub.peer()
    assert again.request.cursor == "c1"
    again.send(frame("c2", "b"))
    assert await reading == closed("b")
    assert any(isinstance(n, Reconnecting) for n in notices)


async def test_the_watchdog_reopens_a_silent_stream(hub: ScriptedHub, client: AsyncClient) -> None:
    """The call is cancelled, so that the hub sees it, and opened again at the cursor."""
    notices: list[Notice] = []
    reading = asyncio.create_task(anext(client.subscribe(on_notice=notices.append)))
    silent = (await hub.peer()).send(ready("c1", heartbeat=0.01))
    again = await hub.peer()
    assert again.request.cursor == "c1"
    await asyncio.wait_for(silent.gone.wait(), 10)
    again.send(frame("c2", "a"))
    assert await reading == closed("a")
    broken = next(n for n in notices if isinstance(n, Reconnecting))
    assert "no frame for 0.07 s" in str(broken.error)


async def test_a_permanent_failure_is_raised_once(hub: ScriptedHub, client: AsyncClient) -> None:
    """With the hub's reason; the subscription has ended then."""
    subscription = client.subscribe()
    reading = asyncio.create_task(anext(subscription))
    (await hub.peer()).send(ready(), (grpc.StatusCode.UNAUTHENTICATED, details(16, "KEY_REVOKED", key_id="k1")))
    with pytest.raises(HubCallError) as raised:
        await reading
    assert (raised.value.reason, raised.value.metadata) == ("KEY_REVOKED", {"key_id": "k1"})
    assert [e async for e in subscription] == []


async def test_goodbye_reconnects_after_the_hubs_delay(hub: ScriptedHub) -> None:
    """Also if the hub then forgets to end the stream."""
    notices: list[Notice] = []
    patient = Policy(goodbye_timeout=0.01, first_delay=5)
    async with AsyncClient(hub.address, "tkt_key", policy=patient) as other:
        reading = asyncio.create_task(anext(other.subscribe(on_notice=notices.append)))
        (await hub.peer()).send(ready(), heartbeat("c1"), goodbye("c2", delay=0.02))
        again = await hub.peer()
        assert again.request.cursor == "c2"
        again.send(frame("c3", "a"))
        assert await reading == closed("a")
    assert [n.delay for n in notices if isinstance(n, Reconnecting)] == [0.02]


async def test_aclose_ends_a_blocked_iteration(hub: ScriptedHub, client: AsyncClient) -> None:
    """From another task, while it waits for a frame: no error, and the hub sees the end."""
    alive = asyncio.Event()
    subscription = client.subscribe(on_notice=lambda n: alive.set() if isinstance(n, Heartbeat) else None)

    async def collect() -> list[str]:
        return [e.id async for e in subscription]

    reading = asyncio.create_task(collect())
    peer = (await hub.peer()).send(ready(), frame("c1", "a"), heartbeat("c2"))
    await asyncio.wait_for(alive.wait(), 10)
    await subscription.aclose()
    assert await asyncio.wait_for(reading, 10) == ["a"]
    await asyncio.wait_for(peer.gone.wait(), 10)


async def test_aclose_ends_the_wait_before_a_reconnect(hub: ScriptedHub) -> None:
    """Even if the backoff is half a minute."""
    waiting = asyncio.Event()
    async with AsyncClient(hub.address, "tkt_key", policy=Policy(first_delay=3_600, max_delay=3_600)) as patient:
        subscription = patient.subscribe(on_notice=lambda n: waiting.set() if isinstance(n, Reconnecting) else None)
        reading = asyncio.create_task(anext(subscription, None))
        (await hub.peer()).send(LOST)
        await asyncio.wait_for(waiting.wait(), 10)
        await subscription.aclose()
        assert await asyncio.wait_for(reading, 10) is None


async def test_cancelling_the_task_ends_the_stream(hub: ScriptedHub, client: AsyncClient) -> None:
    """The cancellation is not swallowed, and leaves no call behind."""
    subscription = client.subscribe()
    reading = asyncio.create_task(anext(subscription))
    peer = (await hub.peer()).send(ready())
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await asyncio.wait_for(peer.gone.wait(), 10)
    assert [e async for e in subscription] == []


async def test_cancelling_and_closing_at_once_is_still_a_cancellation(hub: ScriptedHub, client: AsyncClient) -> None:
    """A cancelled task must end as cancelled, or its task group waits forever."""
    subscription = client.subscribe()
    reading = asyncio.create_task(anext(subscription, None))
    (await hub.peer()).send(ready())
    await subscription.aclose()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_break_without_async_with_ends_the_stream(hub: ScriptedHub, client: AsyncClient) -> None:
    """Dropping the last reference is enough."""

    async def first() -> str:
        async for each in client.subscribe():
            return each.id
        return "nothing"

    reading = asyncio.create_task(first())
    peer = (await hub.peer()).send(ready(), frame("c1", "a", "b"))
    assert await reading == "a"
    await asyncio.wait_for(peer.gone.wait(), 10)


async def test_closing_the_client_ends_its_subscriptions(hub: ScriptedHub) -> None:
    """No new subscription can be opened with it."""
    client = AsyncClient(hub.address, "tkt_key", policy=POLICY)
    reading = asyncio.create_task(anext(client.subscribe(), None))
    await hub.peer()
    await client.aclose()
    assert await asyncio.wait_for(reading, 10) is None
    with pytest.raises(HubCallError, match="closed"):
        client.subscribe()
    with pytest.raises(HubCallError, match="closed"):
        await client.emit(closed("a"))


async def test_auto_commit_follows_processed_events(hub: ScriptedHub, client: AsyncClient) -> None:
    """First Ready's cursor; commits survive a passing failure, and the last one is sent before the client closes."""
    hub.refusals = [LOST]
    subscription = client.subscribe(auto_commit=True, subscription_id="mine")
    reading = asyncio.create_task(anext(subscription))
    peer = (await hub.peer()).send(ready("c0"))
    for _ in range(2):
        request = await asyncio.wait_for(hub.commits.get(), 10)
        assert (request.cursor, request.subscription_id) == ("c0", "mine")
    peer.send(frame("c1", "a"), frame("c2", "b"))
    assert await reading == closed("a")
    assert await anext(subscription) == closed("b")
    await client.aclose()
    assert hub.commits.get_nowait().cursor == "c1"


async def test_a_permanent_commit_failure_is_raised_while_iterating(hub: ScriptedHub, client: AsyncClient) -> None:
    """Otherwise the program would only learn at its next start that nothing was committed."""
    hub.refusals = [(grpc.StatusCode.RESOURCE_EXHAUSTED, details(8, "TOO_MANY_SUBSCRIPTIONS"))]
    subscription = client.subscribe(auto_commit=True)
    reading = asyncio.create_task(anext(subscription))
    peer = (await hub.peer()).send(ready("c0"))
    assert subscription._committer
    await asyncio.wait_for(asyncio.shield(subscription._committer.task), 10)
    peer.send(heartbeat("c1"))
    with pytest.raises(HubCallError, match="TOO_MANY_SUBSCRIPTIONS"):
        await reading


async def test_an_unreferenced_subscription_ends_its_task(hub: ScriptedHub, client: AsyncClient) -> None:
    """A plain `break` leaves neither a call nor a committing task behind."""
    subscription = client.subscribe(auto_commit=True)
    assert subscription._committer
    task = subscription._committer.task
    reading = asyncio.create_task(anext(subscription))
    peer = (await hub.peer()).send(ready("c0"), frame("c1", "a"))
    await reading
    del subscription, reading
    await asyncio.wait_for(task, 10)
    await asyncio.wait_for(peer.gone.wait(), 10)


async def test_emit_repeats_with_the_same_id(hub: ScriptedHub, client: AsyncClient) -> None:
    """Refused twice in ways that pass, then stored: three calls, one event."""
    hub.refusals = [LOST, (grpc.StatusCode.RESOURCE_EXHAUSTED, details(8, "EMIT_BACKLOG_FULL", retry=0.001))]
    result = await client.emit(closed(""))
    assert len(hub.emitted) == 3
    assert hub.emitted[0] == hub.emitted[1] == hub.emitted[2]
    assert result.event_id


async def test_emit_raises_a_permanent_failure_at_once(hub: ScriptedHub, client: AsyncClient) -> None:
    """With the reason."""
    hub.refusals = [(grpc.StatusCode.ALREADY_EXISTS, details(6, "EVENT_ID_CONFLICT"))]
    with pytest.raises(HubCallError) as raised:
        await client.emit(closed("a"))
    assert raised.value.reason == "EVENT_ID_CONFLICT"
    assert len(hub.emitted) == 1


async def test_emit_batch_reports_what_was_stored(hub: ScriptedHub, client: AsyncClient) -> None:
    """In order, 1,000 a call; a refused call's error has the results of those before."""
    assert len(await client.emit_batch(closed(f"e{i}") for i in range(1_001))) == 1_001
    assert len(hub.emitted) == 2

    hub.refuse_from = 4
    with pytest.raises(HubCallError) as raised:
        await client.emit_batch(closed(f"e{i}") for i in range(1_001))
    assert len(raised.value.results) == 1_000


async def test_the_synchronous_client_speaks_real_grpc_too(hub: ScriptedHub) -> None:
    """What the scripted channel cannot show: a reconnect, an emit and a close from another thread, over a socket."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(2) as threads, Client(hub.address, "tkt_key", policy=POLICY) as client:
        subscription = client.subscribe()
        reading = loop.run_in_executor(threads, next, subscription)
        (await hub.peer()).send(ready(), frame("c1", "a"), LOST)
        assert await reading == closed("a")
        reading = loop.run_in_executor(threads, next, subscription)
        again = (await hub.peer()).send(frame("c2", "b"))
        assert again.request.cursor == "c1"
        assert await reading == closed("b")
        assert (await loop.run_in_executor(threads, client.emit, closed("e"))).event_id == "e"
        draining = loop.run_in_executor(threads, list, subscription)
        subscription.close()
        assert await asyncio.wait_for(draining, 10) == []
        await asyncio.wait_for(again.gone.wait(), 10)


async def test_a_client_may_start_before_its_hub(hub: ScriptedHub) -> None:
    """The connection is retried, not only the call."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    refused = asyncio.Event()
    async with AsyncClient(f"127.0.0.1:{port}", "tkt_key", policy=POLICY) as early:
        reading = asyncio.create_task(anext(early.subscribe(on_notice=lambda _: refused.set())))
        await asyncio.wait_for(refused.wait(), 10)
        late = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_EventServiceServicer_to_server(hub, late)
        late.add_insecure_port(f"127.0.0.1:{port}")
        await late.start()
        (await hub.peer()).send(ready(), frame("c1", "a"))
        assert await asyncio.wait_for(reading, 20) == closed("a")
        await late.stop(0)

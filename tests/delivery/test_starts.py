"""What happens while a stream is being opened, and places that the log has lost: nothing is skipped silently."""

from collections.abc import Awaitable, Callable

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from tickets.hub.v1 import event_service_pb2

from hub.clock import Clock
from hub.delivery.cursor import CursorSeal
from hub.model import Cursor
from tests.support.calls import commit, fails, info_of
from tests.support.events import ids
from tests.support.hubs import FakeClock, RunningHub, StartHub, emit, only_in_the_log
from tests.support.streams import EARLIEST, names_until, notice, unseal


def while_claiming(hub: RunningHub, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], Awaitable[object]]) -> None:
    """Let something happen, once, after a stream has looked where it starts and before its claim is in the log."""
    starts = hub.hub.streams.starts
    claim = starts.claim

    async def late(name: str, stream_id: str, start: Cursor | None) -> int:
        monkeypatch.setattr(starts, "claim", claim)
        await happens()
        return await claim(name, stream_id, start)

    monkeypatch.setattr(starts, "claim", late)


async def beyond(hub: RunningHub) -> str:
    """A cursor of this log from before it lost its end."""
    log = hub.hub.log
    bounds = await log.bounds()
    return CursorSeal((await log.secrets())[0]).seal(Cursor(bounds.epoch, bounds.last + 50, 10**15)).decode()


async def test_a_commit_during_the_opening_of_a_stream_counts(hub: RunningHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies between that commit and the claim is delivered, though nothing was committed at first."""
    _, reader = await hub.register("TICKET_CREATED")
    before = (await reader.subscribe(subscription_id="other")).frames[0].cursor
    await emit(hub, ["between"])
    while_claiming(hub, monkeypatch, lambda: commit(reader, before))
    stream = await reader.subscribe()
    await emit(hub, ["after"])
    assert await names_until(stream, "after") == ["between", "after"]


async def test_earliest_does_not_expire_while_the_stream_opens(
    hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is removed while the claim is stored is not kept any more, so it is not missed."""
    _, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("e", 50))

    async def remove() -> None:
        bounds = await hub.hub.log.bounds()
        hub.hub.feed.trimmed(bounds.last - 9, Clock().now())

    while_claiming(hub, monkeypatch, remove)
    stream = await reader.subscribe(earliest={})
    assert await names_until(stream, "e00049") == ids("e", 50)[-10:]


@pytest.mark.parametrize("on_expired", [0, EARLIEST])
async def test_earliest_continues_after_a_trim_by_another_replica(
    hub: RunningHub, monkeypatch: pytest.MonkeyPatch, on_expired: int
) -> None:
    """Before its first event the beginning may move once more: neither CURSOR_EXPIRED nor a Gap."""
    _, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("e", 3_000))
    feed = hub.hub.feed
    only_in_the_log(hub)
    load = feed.load

    async def late(page: int) -> None:
        await hub.hub.log.trim(1_000, 1_000)  # the feed here learns of it with the page
        await load(page)

    monkeypatch.setattr(feed, "load", late)
    stream = await reader.subscribe(earliest={}, on_expired_cursor=on_expired)
    got = await names_until(stream, "e02999")
    assert len(got) < 3_000
    assert got == ids("e", 3_000)[-len(got) :]
    assert not any(frame.HasField("gap") for frame in stream.frames)


async def test_a_start_without_its_history_takes_nothing_over(hub: RunningHub) -> None:
    """A cursor that predates a restore, and one past the log's end, are refused before the claim."""
    _, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("e", 3))
    log = hub.hub.log
    bounds = await log.bounds()
    restored = CursorSeal((await log.secrets())[0]).seal(Cursor(bounds.epoch ^ 1, bounds.last, 10**15)).decode()
    healthy = await reader.subscribe()
    for cursor in (restored, await beyond(hub)):
        ending = await reader.open(cursor=cursor).ending()
        assert (ending.code(), info_of(ending).reason) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED")
    await emit(hub, ["after"])
    assert await names_until(healthy, "after") == ["after"]


async def test_a_cursor_past_the_end_of_the_log_is_expired(hub: RunningHub) -> None:
    """The log was put back to an earlier state: CURSOR_EXPIRED, or all that is kept after a Gap; no commit either."""
    _, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ids("a", 3))
    lost = await beyond(hub)
    for failure in (await reader.open(cursor=lost).ending(), await fails(commit(reader, lost))):
        assert (failure.code(), info_of(failure).reason) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED")
        assert info_of(failure).metadata["cause"] == "RESTORE"
    for _ in range(2):
        stream = await reader.subscribe(cursor=lost, on_expired_cursor=EARLIEST)
        lost = stream.frames[0].cursor  # Ready's, which still stands before the gap
        gap = (await notice(stream, "gap")).gap
        assert gap.cause == event_service_pb2.GAP_CAUSE_RESTORE
        assert await names_until(stream, "a00002") == ids("a", 3)


async def test_a_future_since_does_not_get_into_a_cursor(start_hub: StartHub) -> None:
    """`since` tomorrow is `latest`: the place was reached now, not then, and a Gap after it begins now."""
    clock = FakeClock()
    hub = await start_hub(clock)
    _, reader = await hub.register("TICKET_CREATED")
    await emit(hub, ["before"])
    tomorrow = Timestamp(seconds=clock.now() // 1_000_000 + 86_400)
    stream = await reader.subscribe(since=tomorrow)
    assert (await unseal(hub, stream.frames[0].cursor)).time <= clock.now()
    await emit(hub, ["after"])
    assert await names_until(stream, "after") == ["after"]

"""What is lost or late on the way: answers, deliveries, pages of a server that is behind; and what is removed later."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, cast

import msgspec
import pytest

from hub.errors import StorageFull, StorageUnavailable
from hub.model import Appended, Bounds, Entry
from hub.storage import STALE_AFTER
from hub.storage.jetstream import consumer as follow
from hub.storage.jetstream import reads
from hub.storage.jetstream import trim as removal
from hub.storage.jetstream.connection import Message, NoReply
from hub.storage.jetstream.log import JetStreamLog
from hub.storage.jetstream.stream import ApiError, Listing, NatsStream
from tests.support.calls import reason_of
from tests.support.hubs import RunningHub, emit
from tests.support.stores import JetStreamStore, event, read_all, state

Open = Callable[..., Awaitable[JetStreamLog]]


@pytest.fixture
async def store(tmp_path: Any) -> Any:  # noqa: ANN401  a generator's type says nothing here
    """An empty store on the shared server."""
    one = JetStreamStore(tmp_path)
    yield one
    await one.close()


@pytest.mark.parametrize("count", [1, 3])
async def test_a_lost_acknowledgement_stores_nothing_twice(
    store: JetStreamStore, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """The group is stored, its acknowledgement is lost: the hub asks the store, and reports what was stored."""
    log = await store.open()
    name = "publish" if count == 1 else "publish_together"
    really = getattr(NatsStream, name)
    lost = 0

    async def lose(stream: NatsStream, *words: Any, **options: Any) -> int:  # noqa: ANN401  whatever is passed
        nonlocal lost
        position = int(await really(stream, *words, **options))
        if stream.name == log._replica.stream.name and not lost:
            lost = position
            raise NoReply("lost")
        return position

    monkeypatch.setattr(NatsStream, name, lose)
    entries = [state(f"k{n}") for n in range(count)]
    assert await log.append(entries) == [Appended(n + 1, 1_000) for n in range(count)]
    assert lost == count
    assert len(await read_all(log)) == count


async def test_a_lost_publish_is_retried(store: JetStreamStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The group never came to the server: it is sent again, and stored once."""
    log = await store.open()
    really, lost = NatsStream.publish_together, list[int]()

    async def lose(stream: NatsStream, *words: Any, **options: Any) -> int:  # noqa: ANN401  whatever is passed
        if not lost:
            lost.append(1)
            raise NoReply("lost")
        return await really(stream, *words, **options)

    monkeypatch.setattr(NatsStream, "publish_together", lose)
    assert [one.position for one in await log.append([event("a"), event("b")])] == [1, 2]
    assert lost


async def test_stored_entries_are_acknowledged_beside_failed_ones(
    store: JetStreamStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three that are written in one go the second finds no room: the first is stored, the others are not."""
    log = await store.open()
    really, count = NatsStream.publish, 0

    async def publish(stream: NatsStream, *words: Any, **options: Any) -> int:  # noqa: ANN401  whatever is passed
        nonlocal count
        if stream.name == log._replica.stream.name:
            count += 1
            if count == 2:
                raise ApiError(10047, "no room")
        return await really(stream, *words, **options)

    monkeypatch.setattr(NatsStream, "publish", publish)
    first, *others = await asyncio.gather(*(log.append([event(name)]) for name in "abc"), return_exceptions=True)
    assert first == [Appended(1, 1_000)]
    assert [type(other) for other in others] == [StorageFull, StorageFull]
    assert [entry.id for entry in await read_all(log)] == ["a"]


@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_full_store_at_a_retry_is_not_reported_as_nothing_stored(
    store: JetStreamStore, monkeypatch: pytest.MonkeyPatch, *, is_stored: bool
) -> None:
    """The answer to the first attempt is lost, the second finds no room: the first may be stored."""
    log = await store.open()
    really, attempts = NatsStream.publish, 0

    async def publish(stream: NatsStream, *words: Any, **options: Any) -> int:  # noqa: ANN401  whatever is passed
        nonlocal attempts
        if stream.name != log._replica.stream.name:
            return await really(stream, *words, **options)
        attempts += 1
        if attempts > 1:
            raise ApiError(10047, "no room")
        if is_stored:
            await really(stream, *words, **options)
        raise NoReply("lost")

    monkeypatch.setattr(NatsStream, "publish", publish)
    [outcome] = await asyncio.gather(log.append([event("a")]), return_exceptions=True)
    if is_stored:
        assert outcome == [Appended(1, 1_000)]
    else:
        assert type(outcome) is StorageUnavailable


async def test_the_end_of_the_log_comes_only_from_the_current_leader(
    store: JetStreamStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A former leader reports its own end: a hub that asks it has not heard from the cluster."""
    writer, reader = await store.open(), await store.open()
    await writer.append([event("a")])
    await writer._replica.quorum.check_quorum()

    async def once(_: NatsStream) -> dict[str, Any]:
        return {"state": {"last_seq": 0}}

    with monkeypatch.context() as patch:
        patch.setattr(NatsStream, "info", once)
        with pytest.raises(NoReply, match="no longer leads"):
            await reader._replica.quorum.check_quorum()
    await reader._replica.quorum.check_quorum()


async def test_heartbeats_of_one_replica_do_not_replace_those_of_another(
    store: JetStreamStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One heartbeat is lost in transit: the other replica's heartbeats must not take its slot."""
    writer = await store.open()
    really, lost = follow.Delivery._on_message, asyncio.Event()

    def on_message(delivery: follow.Delivery, message: Message) -> None:
        if (
            message.data == b"77"
            and delivery._stream.connection is not writer._replica.stream.connection
            and not lost.is_set()
        ):
            lost.set()
        else:
            really(delivery, message)

    monkeypatch.setattr(follow.Delivery, "_on_message", on_message)
    reader = await store.open()
    writer._replica.metadata._slot, reader._replica.metadata._slot = 1, 2  # by chance they may be the same
    await writer._replica.metadata.publish_heartbeat(77)
    await writer.close()  # it would say something else a second later, and again
    await lost.wait()
    with pytest.raises(NoReply, match="no longer leads"):
        await reader._replica.quorum.check_quorum()


async def test_heartbeats_from_before_a_start_do_not_count(store: JetStreamStore) -> None:
    """The cluster has lost the end of the log: hubs that start afterwards continue where it ends now."""
    log = await store.open()
    await log._replica.metadata.publish_heartbeat(99)
    await log.close()
    log = await store.open()
    await log._replica.quorum.check_quorum()
    assert [one.position for one in await log.append([event("a")])] == [1]


async def test_an_incomplete_page_of_a_former_leader_is_rejected(
    store: JetStreamStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has four of six entries and says that nothing follows: rather no page than one without the others."""
    log = await store.open()
    await log.append([event(f"{n}") for n in range(6)])
    really = NatsStream.page

    async def page(stream: NatsStream, start: int, limit: int, subject: str = "") -> Listing:
        listing = await really(stream, start, limit, subject)
        return Listing([stored for stored in listing.messages if stored.position <= 4], ended=True)

    async def once(_: NatsStream) -> int:
        return 4

    async def nothing(_: NatsStream, **which: str | int) -> None:
        assert which

    with monkeypatch.context() as patch:
        patch.setattr(reads, "_LATE_TRIES", 3)
        for name, instead in (("page", page), ("last", once), ("get", nothing)):
            patch.setattr(NatsStream, name, instead)
        with pytest.raises(StorageUnavailable):
            await log.read(0, 100)
    assert [entry.position for entry in await read_all(log)] == list(range(1, 7))


async def test_a_future_position_is_not_taken_for_a_removed_one(store: JetStreamStore) -> None:
    """The hub waits for a position that the log has not reached: it must not skip the later entry."""
    log, other = await store.open(), await store.open()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await log._replica.catch_up(1)
    [appended] = await other.append([event("a")])
    await log._replica.catch_up(appended.position)
    assert (await read_all(log))[0].id == "a"
    assert (await log.append([event("a")]))[0].duplicate


@pytest.mark.parametrize("question", ["publish", "last"])
async def test_a_start_retries_streams_that_do_not_answer_yet(
    store: JetStreamStore, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    """Another replica created them a moment ago: the starting hub asks again."""
    really, unanswered = getattr(NatsStream, question), [1, 2]

    async def ask(stream: NatsStream, *words: Any, **options: Any) -> int:  # noqa: ANN401  whatever is passed
        if unanswered:
            unanswered.pop()
            raise NoReply("no responders available for request")
        return int(await really(stream, *words, **options))

    monkeypatch.setattr(NatsStream, question, ask)
    log = await store.open()
    assert not unanswered
    assert [one.position for one in await log.append([event("a")])] == [1]


async def test_a_lost_delivery_is_detected_and_fetched(store: JetStreamStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """One message of many, and one with nothing behind it, do not reach another replica: its tail has them all."""
    writer = await store.open()
    really = follow.Delivery._on_message
    lose = {3, 9}

    def on_message(delivery: follow.Delivery, message: Message) -> None:
        is_entry = message.subject.startswith(f"{writer._replica.stream.name}.event")
        is_readers = delivery._stream.connection is not writer._replica.stream.connection
        position = follow._numbers(message.reply)[0] if is_entry and is_readers else 0
        if position not in lose:
            really(delivery, message)
        lose.discard(position)

    monkeypatch.setattr(follow.Delivery, "_on_message", on_message)
    reader = await store.open()
    async with aclosing(cast("Any", reader.tail(0))) as tail:
        got: list[int] = []
        for last in (1, 5, 9):  # in time with the tail, so that it is not read from the log
            for n in range(len(got), last):
                await writer.append([event(f"{n}")])
            while len(got) < last:
                got += [entry.position for entry in await anext(tail)]
    assert got == list(range(1, 10))
    assert not lose


async def test_an_incomplete_page_of_a_lagging_server_is_read_again(
    store: JetStreamStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that ends too early, or is empty, is asked for again; where it has something, `through` says how far."""
    log = await store.open()
    await log.append([event(f"{n}") for n in range(6)])
    really, behind = NatsStream.page, [4, 0]

    async def page(stream: NatsStream, start: int, limit: int, subject: str = "") -> Listing:
        listing = await really(stream, start, limit, subject)
        if not behind:
            return listing
        reached = behind.pop(0)
        return Listing([stored for stored in listing.messages if stored.position <= reached], ended=True)

    monkeypatch.setattr(NatsStream, "page", page)
    first = await log.read(0, 100)
    assert [entry.position for entry in first.entries] == list(range(1, first.through + 1))
    assert [entry.position for entry in await read_all(log)] == list(range(1, 7))
    assert not behind


async def test_ids_of_trimmed_entries_stay_known_to_new_replicas(
    store: JetStreamStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The messages go from the server; a replica that opens then still knows the ids of the dedupe window."""
    monkeypatch.setattr(removal, "REMOVE_AFTER", 0.0)
    log = await store.open()
    await log.append([event("a"), event("b"), state("claim/x", b"", 1_000), event("c")])
    assert await log.trim(4, 10) == 3
    messages = [(await log._replica.stream.info())["state"]["messages"]]
    while messages[-1] > 1:
        messages.append((await log._replica.stream.info())["state"]["messages"])
    await log.close()
    log = await store.open()
    assert [entry.position for entry in await read_all(log)] == [4]
    assert await log.append([event("a")]) == [Appended(1, 1_000, duplicate=True)]


async def test_a_stale_replica_delivers_nothing(hub: RunningHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the moment on that the store was not heard from no event leaves, though it is here already."""
    log = hub.hub.log
    if not isinstance(log, JetStreamLog):
        pytest.skip("the embedded store is never in the dark: nobody else writes")
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe()
    feed = hub.hub.feed
    [known] = [entry for entry in await sample(hub) if entry.id == "known"]
    assert [one.id for one in await stream.events(1)] == ["known"]
    monkeypatch.setattr(log._replica.quorum, "_proved", -1e9)
    feed._take_in([msgspec.structs.replace(known, id="dark", position=feed.through + 1)], lambda _: None)
    assert reason_of(await stream.ending()) == "STORAGE_UNAVAILABLE"
    assert sum(len(frame.events) for frame in stream.frames) == 1


async def test_events_wait_while_the_store_is_silent(hub: RunningHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """After 5 s of silence the stream says so and keeps it back; it comes once all before it was applied here."""
    log = hub.hub.log
    if not isinstance(log, JetStreamLog):
        pytest.skip("the embedded store is never silent: nobody else writes")

    async def unheard() -> None:
        raise NoReply("silent")

    async def ahead() -> Bounds:
        asked.set()
        return later

    async def nothing() -> None:
        """Nothing else comes into the log meanwhile."""

    asked = asyncio.Event()
    monkeypatch.setattr(hub.hub.changes, "save_usage", nothing)
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe()
    streams, feed = hub.hub.streams, hub.hub.feed
    [known] = [entry for entry in await sample(hub) if entry.id == "known"]
    assert [one.id for one in await stream.events(1)] == ["known"]
    later = msgspec.structs.replace(await log.bounds(), last=feed.through + 2)
    monkeypatch.setattr(log, "bounds", ahead)
    with monkeypatch.context() as patch:
        patch.setattr(log._replica.quorum, "check_quorum", unheard)
        patch.setattr(log._replica.quorum, "_proved", asyncio.get_running_loop().time() - STALE_AFTER)
        feed._take_in([msgspec.structs.replace(known, id="dark", position=feed.through + 1)], lambda _: None)
        assert (await stream.frame()).heartbeat.store_silent
    await asked.wait()
    await asyncio.sleep(0)
    assert not streams.freshness.is_fresh()
    feed._take_in([msgspec.structs.replace(known, id="applied", position=feed.through + 1)], lambda _: None)
    assert len(await stream.events(2)) == 2


async def sample(hub: RunningHub) -> list[Entry]:
    """The log with an event in it."""
    await emit(hub, ["known"])
    return await read_all(hub.hub.log)

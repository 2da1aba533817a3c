"""The outbox of both clients: an event for which emit() returned reaches the hub, in order, once."""

import asyncio
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tickets_hub import AsyncClient, Client, HubCallError, Outbox, OutboxError, OutboxFull, Rejected
from tickets_hub.aio_outbox import AsyncOutboxEmitter
from tickets_hub.sync_outbox import OutboxEmitter
from tickets_hub.v1.event_pb2 import Event

from tests.support.events import closed
from tests.support.outboxes import Bot, soon, stored
from tests.support.real_hub import RealHub

Kind = type[AsyncClient] | type[Client]
MakeBot = Callable[..., Bot]
NOWHERE = "127.0.0.1:1"
RUN = [0]


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealHub]:
    """A hub in a process of its own, for all of these tests: a reader sees what comes after its registration."""
    started = RealHub(tmp_path_factory.mktemp("hub"))
    yield started
    started.close()


@pytest.fixture(autouse=True)
def own_ids() -> None:
    """Another beginning of the ids of each test: the hub knows those of the tests before."""
    RUN.append(len(RUN))


def one(name: str) -> str:
    """An id of this test."""
    return f"{RUN[-1]}-{name}"


def ids(name: str, count: int) -> list[str]:
    """So many ids of this test, in order."""
    return [one(f"{name}{number:05d}") for number in range(count)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the outbox is."""
    return tmp_path / "bot-outbox.db"


@pytest.fixture(params=[AsyncClient, Client])
def bot(request: pytest.FixtureRequest, path: Path) -> Iterator[MakeBot]:
    """Makes bots on each client in turn: `bot(address, key)`; they are closed in the end."""
    made = list[Bot]()

    def make(address: str = NOWHERE, key: str = "tkt_bot_x_y", outbox: Outbox | None = None) -> Bot:
        made.append(Bot(request.param, address, key, outbox or Outbox(path)))
        return made[-1]

    yield make
    for each in made:
        each.close(0)


def test_emit_returns_while_the_hub_is_down(real: RealHub, bot: MakeBot) -> None:
    """Once the hub is up again everything arrives, in order, once."""
    _, reader = real.register()
    real.end(signal.SIGKILL)
    emitter = bot(real.address, real.keys["BOT"])
    for name in ids("a", 50):
        assert emitter.emit(closed(name)) == name
    assert emitter.status.waiting == 50
    assert emitter.status.oldest_age > 0
    soon(lambda: emitter.status.failure is not None)
    real.start()
    soon(lambda: emitter.status.waiting == 0)
    assert (emitter.status.oldest_age, emitter.status.size, emitter.status.failure) == (0, 0, None)
    assert stored(real, reader) == ids("a", 50)


def test_a_restarted_bot_sends_the_events_it_left(real: RealHub, bot: MakeBot) -> None:
    """The file outlives the client: the next one sends first what an earlier one left."""
    _, reader = real.register()
    earlier = bot()
    for name in ids("a", 20):
        earlier.emit(closed(name))
    earlier.close(0)
    later = bot(real.address, real.keys["BOT"])
    later.emit(closed(one("last")))
    later.close()
    assert stored(real, reader) == [*ids("a", 20), one("last")]


def test_many_callers_share_a_transaction_and_keep_their_order(real: RealHub, bot: MakeBot) -> None:
    """One sync of the disk serves every waiting caller; events keep the order in which they were emitted."""
    _, reader = real.register()
    emitter, commits = bot(), list[str]()
    emitter.file._file._database.set_trace_callback(lambda s: commits.append(s) if s == "COMMIT" else None)
    first, second = ids("a", 150), ids("b", 150)
    assert emitter.emit_together([closed(name) for name in first]) == first
    assert emitter.emit_together([closed(name) for name in second]) == second
    assert len(commits) < 250
    emitter.close(0)
    bot(real.address, real.keys["BOT"]).close()
    found = stored(real, reader)
    assert (set(found[:150]), set(found[150:])) == (set(first), set(second))
    if isinstance(emitter.client, AsyncClient):  # its tasks began in this order
        assert found == first + second


def test_permanently_refused_events_move_to_a_table(real: RealHub, bot: MakeBot, path: Path) -> None:
    """With the reason; they are counted and reported to on_rejected, and later events continue in order."""
    _, reader = real.register()
    heard = list[Rejected]()
    emitter = bot(real.address, real.keys["BOT"], Outbox(path, on_rejected=heard.append))
    for event in (closed(one("a")), Event(id=one("bad")), closed(one("b")), closed(one("a"), "42"), closed(one("c"))):
        emitter.emit(event)
    soon(lambda: emitter.status.waiting == 0 and len(heard) == 2)  # they are called back once they are in the table
    assert [(each.event.id, each.error.reason) for each in heard] == [
        (one("bad"), "INVALID_REQUEST"),
        (one("a"), "EVENT_ID_CONFLICT"),
    ]
    assert heard[0].error.violations[0].field.startswith("event.")
    assert emitter.status.rejected == 2
    emitter.close()
    assert stored(real, reader) == [one("a"), one("b"), one("c")]
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT event, code, reason FROM rejected ORDER BY number").fetchall()
    database.close()
    assert [(Event.FromString(event).id, code) for event, code, _ in rows] == [
        (one("bad"), "INVALID_ARGUMENT"),
        (one("a"), "ALREADY_EXISTS"),
    ]
    assert bot().status.rejected == 2


def test_an_event_right_before_close_is_sent(real: RealHub, path: Path) -> None:
    """The sender finds the file empty; then an event arrives, then close(), before the sender continues."""
    _, reader = real.register()
    client = Client(real.address, real.keys["BOT"], outbox=Outbox(path))
    emitter = client._emitter
    assert isinstance(emitter, OutboxEmitter)
    look, closings = emitter._step, list[threading.Thread]()

    def step() -> float | None:
        delay = look()
        if not closings:
            client.emit(closed(one("last")))
            closing = threading.Thread(target=client.close)
            closing.start()
            closings.append(closing)
            soon(lambda: emitter._ending is not None)
        return delay

    emitter._step = step  # type: ignore[method-assign]
    emitter._arrived.set()
    soon(lambda: bool(closings))
    closings[0].join()
    assert client.outbox.waiting == 0
    assert stored(real, reader) == [one("last")]


async def test_an_event_right_before_close_is_sent_by_the_asyncio_client(real: RealHub, path: Path) -> None:
    """The same, for the asyncio client."""
    _, reader = real.register()
    client = await AsyncClient(real.address, real.keys["BOT"], outbox=Outbox(path)).__aenter__()
    emitter = client._emitter
    assert isinstance(emitter, AsyncOutboxEmitter)
    look, closing = emitter._step, asyncio.Event()

    async def step() -> float | None:
        delay = await look()
        if not closing.is_set():
            await client.emit(closed(one("last")))
            closing.set()
            while emitter._ending is None:  # noqa: ASYNC110  nothing tells of it
                await asyncio.sleep(0)
        return delay

    emitter._step = step  # type: ignore[method-assign]
    emitter._arrived.set()
    await closing.wait()
    await client.aclose()
    assert client.outbox.waiting == 0
    assert await asyncio.to_thread(stored, real, reader) == [one("last")]


def test_a_failing_callback_does_not_stop_the_outbox(real: RealHub, bot: MakeBot, path: Path) -> None:
    """An error in on_rejected is logged; later events are sent."""

    def broken(_: Rejected) -> None:
        raise RuntimeError("mine")

    _, reader = real.register()
    emitter = bot(real.address, real.keys["BOT"], Outbox(path, on_rejected=broken))
    emitter.emit(Event(id=one("bad")))
    emitter.emit(closed(one("good")))
    soon(lambda: emitter.status.waiting == 0)
    assert stored(real, reader) == [one("good")]


def test_a_wrong_key_keeps_all_events(real: RealHub, bot: MakeBot) -> None:
    """With a key that has ended or may not emit nothing is lost; with the right one the events are sent."""
    _, reader = real.register()
    emitter = bot(real.address, reader)
    for name in ids("a", 5):
        emitter.emit(closed(name))
    soon(lambda: emitter.status.failure is not None)
    assert emitter.status.failure is not None
    assert emitter.status.failure.reason == "ROLE_NOT_ALLOWED"
    emitter.client.use_key("tkt_bot_unknown_key")
    soon(lambda: emitter.status.failure is not None and emitter.status.failure.code == "UNAUTHENTICATED")
    assert (emitter.status.waiting, emitter.status.rejected) == (5, 0)
    emitter.client.use_key(real.keys["BOT"])
    soon(lambda: emitter.status.waiting == 0)
    assert stored(real, reader) == ids("a", 5)


def test_emit_stamps_id_and_occur_time(real: RealHub, bot: MakeBot) -> None:
    """An event that waits for an hour did not happen an hour later."""
    emitter, event = bot(real.address, real.keys["BOT"]), closed("")
    name = emitter.emit(event)
    assert event.id == name != ""
    assert event.HasField("occur_time")
    own = closed(one("own"))
    own.occur_time.FromSeconds(1_700_000_000)
    emitter.emit(own)
    assert own.occur_time.seconds == 1_700_000_000


def test_a_copied_outbox_loses_no_event(real: RealHub, bot: MakeBot, path: Path, tmp_path: Path) -> None:
    """Original and copy run side by side: common events are stored once, new ones of each are stored, too."""
    _, reader = real.register()
    earlier = bot()
    for name in ids("both", 3):
        earlier.emit(closed(name))
    earlier.close(0)
    shutil.copy(path, tmp_path / "copy.db")
    original = bot(real.address, real.keys["BOT"])
    copy = bot(real.address, real.keys["BOT"], Outbox(tmp_path / "copy.db"))
    for name in ids("a", 5):
        original.emit(closed(name))
    for name in ids("b", 5):
        copy.emit(closed(name))
    soon(lambda: original.status.waiting == copy.status.waiting == 0)
    found = stored(real, reader)
    assert sorted(found) == sorted([*ids("both", 3), *ids("a", 5), *ids("b", 5)])
    assert [name for name in found if name.startswith(one("both"))] == ids("both", 3)


def test_a_restored_outbox_loses_no_event(real: RealHub, bot: MakeBot, path: Path, tmp_path: Path) -> None:
    """An older copy replaces the file: it continues with new numbers, not with those that the hub knows."""
    _, reader = real.register()
    first = bot(real.address, real.keys["BOT"])
    for name in ids("a", 3):
        first.emit(closed(name))
    first.close()
    shutil.copy(path, tmp_path / "older.db")
    second = bot(real.address, real.keys["BOT"])
    for name in ids("b", 3):
        second.emit(closed(name))
    second.close()
    shutil.copy(tmp_path / "older.db", path)
    third = bot(real.address, real.keys["BOT"])
    for name in ids("c", 3):
        third.emit(closed(name))
    third.close()
    assert stored(real, reader) == [*ids("a", 3), *ids("b", 3), *ids("c", 3)]


def test_an_outbox_survives_a_restore_of_the_hub(bot: MakeBot, tmp_path: Path) -> None:
    """The hub lost the numbers: the outbox continues as another emitter, in order, and loses nothing."""
    hub = RealHub(tmp_path)
    try:
        _, reader = hub.register()
        hub.end(signal.SIGTERM)
        shutil.copytree(tmp_path / "data", tmp_path / "backup")
        hub.start()
        emitter = bot(hub.address, hub.keys["BOT"])
        for name in ids("lost", 3):
            emitter.emit(closed(name))
        soon(lambda: emitter.status.waiting == 0)
        hub.end(signal.SIGKILL)
        for name in ids("a", 3):
            emitter.emit(closed(name))
        shutil.rmtree(tmp_path / "data")
        shutil.move(tmp_path / "backup", tmp_path / "data")
        hub.start()
        soon(lambda: emitter.status.waiting == 0)
        emitter.emit(closed(one("last")))
        soon(lambda: emitter.status.waiting == 0)
        assert stored(hub, reader) == [*ids("a", 3), one("last")]
        assert emitter.status.rejected == 0
    finally:
        hub.close()


def test_a_full_outbox_refuses_events(real: RealHub, bot: MakeBot, path: Path) -> None:
    """It is bounded in events and bytes; once the hub is there it has room again."""
    emitter = bot(outbox=Outbox(path, max_events=2))
    emitter.emit(closed(one("a")))
    emitter.emit(closed(one("b")))
    with pytest.raises(OutboxFull, match="the outbox is full: 2 events"):
        emitter.emit(closed(one("c")))
    emitter.close(0)
    with pytest.raises(OutboxFull, match="max_bytes 10"):
        bot(outbox=Outbox(path.with_name("small.db"), max_bytes=10)).emit(closed(one("a")))
    later = bot(real.address, real.keys["BOT"], Outbox(path, max_events=2))
    soon(lambda: later.status.waiting == 0)
    assert later.emit(closed(one("c"))) == one("c")


def test_an_invalid_event_is_refused_at_once(bot: MakeBot) -> None:
    """In the file it would block later events."""
    emitter = bot()
    with pytest.raises(ValueError, match="the hub takes up to 262144"):
        emitter.emit(Event(id=one("large"), guild_id="4" * 300_000))
    assert emitter.status.waiting == 0


def test_a_full_disk_fails_emit_until_there_is_room(real: RealHub, bot: MakeBot) -> None:
    """SQLite has no page left: emit() fails, nothing is stored in part, and it works again with room."""
    _, reader = real.register()
    emitter = bot(real.address, real.keys["BOT"])
    emitter.emit(closed(one("a")))
    soon(lambda: emitter.status.waiting == 0)
    database = emitter.file._file._database
    [pages] = database.execute("PRAGMA page_count").fetchone()
    database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OutboxError, match="could not be written: database or disk is full"):
        emitter.emit(Event(id=one("large"), guild_id="4" * 100_000))
    assert emitter.status.waiting == 0
    database.execute("PRAGMA max_page_count = 1000000")
    emitter.emit(closed(one("b")))
    emitter.close()
    assert stored(real, reader) == [one("a"), one("b")]


def test_only_one_process_may_open_the_file(bot: MakeBot, path: Path) -> None:
    """Another one is refused, in this process and in any other; with the first one gone it is let in."""
    first = bot()
    with pytest.raises(OutboxError, match="is in use: each process needs a file of its own"):
        bot()
    program = f"from tickets_hub import Client\nClient('{NOWHERE}', 'tkt_bot_x_y', outbox={str(path)!r}).close()"
    other = [sys.executable, "-c", program]
    refused = subprocess.run(other, capture_output=True, text=True, check=False)  # noqa: S603  ourselves
    assert refused.stderr.splitlines()[-1].endswith("is in use: each process needs a file of its own")
    first.close(0)
    assert subprocess.run(other, check=False).returncode == 0  # noqa: S603  ourselves


def test_files_that_are_not_outboxes_are_refused_and_unchanged(bot: MakeBot, path: Path, tmp_path: Path) -> None:
    """Another database, a text, an outbox of a newer client, a missing directory."""
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE guilds (id)")
    other.close()
    before = path.read_bytes()
    with pytest.raises(OutboxError, match="is not an outbox: give the outbox another file"):
        bot()
    assert path.read_bytes() == before
    path.write_text("just a text\n" * 100)
    with pytest.raises(OutboxError, match="not a database"):
        bot()
    with pytest.raises(OutboxError, match="No such file or directory"):
        bot(outbox=Outbox(tmp_path / "nowhere" / "bot.db"))
    newer = tmp_path / "newer.db"
    bot(outbox=Outbox(newer)).close(0)
    with sqlite3.connect(newer) as database:
        database.execute("PRAGMA user_version = 2")
    database.close()
    with pytest.raises(OutboxError, match="made by a newer client"):
        bot(outbox=Outbox(newer))


def test_the_outbox_file_is_readable_by_its_owner_only(bot: MakeBot, path: Path) -> None:
    """Other users must not read the events."""
    bot().emit(closed(one("a")))
    for file in path.parent.glob("bot-outbox.db*"):
        assert file.stat().st_mode & 0o077 == 0, file.name


def test_a_closed_client_refuses_events(bot: MakeBot) -> None:
    """The next client may open the file."""
    emitter = bot()
    emitter.emit(closed(one("a")))
    emitter.close(0)
    with pytest.raises(HubCallError, match="this client is closed"):
        emitter.emit_once_more(closed(one("b")))
    assert bot().status.waiting == 1

"""A log in JetStream that an older hub made: this hub reads it, both may write, and a newer format ends this one."""

import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hub.config import Settings
from hub.errors import StartError, StorageUnavailable
from hub.storage.jetstream.codec import CHECKSUM
from hub.storage.jetstream.connection import NatsConnection
from hub.storage.jetstream.log import JetStreamLog
from hub.storage.jetstream.metadata import StoreFormat
from hub.storage.jetstream.setup import required_config, required_metadata_config
from hub.storage.jetstream.stream import NatsStream, OutgoingMessage
from hub.storage.levels import FORMAT
from tests.support.hubs import until
from tests.support.migrations import meaning
from tests.support.nats_servers import shared
from tests.support.stores import event, read_all, remove_streams, settings_for, state

DATA = Path(__file__).parents[1] / "data"
FORMATS = pytest.mark.parametrize("name", sorted(path.name for path in DATA.glob("format-*")))


@pytest.fixture
async def settings(tmp_path: Path) -> AsyncIterator[Settings]:
    """Names a log in the shared server that nobody has made yet."""
    made = settings_for(tmp_path, storage=shared().url, nats_stream="RELEASED")
    await remove_streams(made.storage, "RELEASED")
    yield made
    await remove_streams(made.storage, "RELEASED")


async def lay(name: str, settings: Settings) -> None:
    """Put the messages of a released log where they were, and holes where there were holes."""
    wire = await NatsConnection.connect(settings)
    lines = [json.loads(line) for line in (DATA / name / "jetstream.jsonl").read_text().splitlines()]
    for make in (required_config, required_metadata_config):
        stream_name = settings.nats_stream + ("_MARKS" if make is required_metadata_config else "")
        stream = NatsStream(wire, stream_name)
        await stream.call("STREAM.CREATE", make(stream_name, 1))
        await _fill(stream, [line for line in lines if line["stream"] == stream_name])
    await wire.close()


async def _fill(stream: NatsStream, lines: list[dict[str, Any]]) -> None:
    for line in lines:
        while (position := await stream.last()) + 1 < line["seq"]:
            await stream.publish(OutgoingMessage(f"{stream.name}.hole", {}, b""))
            await stream.overwrite(position + 1)
        await stream.publish(OutgoingMessage(line["subject"], dict(line["headers"]), bytes.fromhex(line["data"])))


async def meaning_of(log: JetStreamLog) -> list[Any]:
    """What a log means, as plain JSON."""
    said: list[Any] = json.loads(msgspec.json.encode(await meaning(log)))
    return said


@FORMATS
async def test_a_log_of_a_released_format_is_read_correctly(name: str, settings: Settings) -> None:
    """The views, the audit trail; new entries follow and are read back."""
    await lay(name, settings)
    log = await JetStreamLog.open(settings)
    said, expected = await meaning_of(log), json.loads((DATA / name / "meaning.json").read_text())
    assert (said[0], said[2]) == (expected[0], expected[2])
    before = (await log.bounds()).last
    await log.append([event("new")])
    assert [entry.id for entry in await read_all(log, before)] == ["new"]
    assert log.damaged == 0
    await log.close()


async def old_entry(settings: Settings, text: str) -> None:
    """Append an event as a hub of format 1 does, which writes no checksum."""
    wire = await NatsConnection.connect(settings)
    await NatsStream(wire, settings.nats_stream).publish(
        OutgoingMessage(f"{settings.nats_stream}.event.10.5", {"Hub-Entry": "99"}, text.encode())
    )
    await wire.close()


async def stamp(settings: Settings, wanted_format: StoreFormat) -> None:
    """Say that the log has a format, as a hub that knows it does."""
    wire = await NatsConnection.connect(settings)
    marks = f"{settings.nats_stream}_MARKS"
    await NatsStream(wire, marks).publish(OutgoingMessage(f"{marks}.format", {}, msgspec.json.encode(wanted_format)))
    await wire.close()


async def test_hubs_of_both_formats_run_side_by_side(settings: Settings) -> None:
    """On an old log hubs of both formats write side by side, and nothing of it counts as damaged."""
    await lay("format-1", settings)
    log = await JetStreamLog.open(settings)
    before = (await log.bounds()).last
    await log.append([event("", b"new", 98)])
    await old_entry(settings, "old")
    await log.newest()
    await until(lambda: log._replica.state.last == before + 2)
    await log.append([event("", b"new again", 100)])
    assert [entry.body for entry in await read_all(log, before)] == [b"new", b"old", b"new again"]
    assert log.damaged == 0
    await log.close()


async def test_in_a_checksummed_log_an_entry_without_checksum_is_damaged(settings: Settings) -> None:
    """A log that this hub made says that older hubs must not write to it; what one wrote anyway is not believed."""
    log = await JetStreamLog.open(settings)
    await log.append([event("a")])
    await old_entry(settings, "old")
    await until(lambda: log._replica.state.last == 2)
    await until(lambda: log.damaged)
    await log.close()


async def test_a_hub_stops_when_the_log_needs_a_newer_one(settings: Settings) -> None:
    """A running hub stops to write and to serve once the log needs a newer hub; a start is refused by name."""
    log = await JetStreamLog.open(settings)
    await stamp(settings, StoreFormat(FORMAT + 1, FORMAT, FORMAT))
    await log.append([state("integration/x")])
    assert not log.failed
    await stamp(settings, StoreFormat(FORMAT + 1, FORMAT + 1, FORMAT + 1))
    await until(lambda: log.failed)
    assert log.silence() == math.inf
    with pytest.raises(StorageUnavailable):
        await log.append([event("late")])
    await log.close()
    with pytest.raises(StartError, match=f"format {FORMAT + 1} and needs .* format {FORMAT + 1}; .* format {FORMAT}:"):
        await JetStreamLog.open(settings)


async def test_new_entries_carry_a_checksum(settings: Settings) -> None:
    """Each message has the header, so that any replica can check it."""
    log = await JetStreamLog.open(settings)
    await log.append([event("a"), state("integration/x"), event("")])
    stored = [await log._replica.stream.get(seq=position) for position in (1, 2, 3)]
    assert all(one is not None and CHECKSUM in one.headers for one in stored)
    await log.close()


async def test_damaged_and_missing_messages_are_reported(settings: Settings) -> None:
    """What does not match its checksum, and what the servers have lost, is DAMAGED in a page; all else is read."""
    log = await JetStreamLog.open(settings)
    await log.append([event(f"e{n}", b"body %d" % n) for n in range(4)])
    stored = await log._replica.stream.get(seq=1)
    assert stored is not None
    headers = {name: value for name, value in stored.headers.items() if name.startswith("Hub-")}
    await log._replica.stream.publish(OutgoingMessage(stored.subject, headers, b"another body"))
    await until(lambda: log._replica.state.last == 5)
    await log.append([event("last")])
    await log._replica.stream.overwrite(2)
    kinds = {entry.position: entry.kind.name for entry in await read_all(log)}
    assert kinds == {1: "EVENT", 2: "DAMAGED", 3: "EVENT", 4: "EVENT", 5: "DAMAGED", 6: "EVENT"}
    assert log.damaged == 2
    assert not log.failed
    await log.close()


async def test_damaged_state_stops_running_and_starting_hubs(settings: Settings) -> None:
    """A running hub serves nothing any more, and a start is refused with the position."""
    log = await JetStreamLog.open(settings)
    await log.append([state("integration/x")])
    stored = await log._replica.stream.get(seq=1)
    assert stored is not None
    headers = {name: value for name, value in stored.headers.items() if name.startswith("Hub-")}
    await log._replica.stream.publish(OutgoingMessage(stored.subject, headers, b"another body"))
    await until(lambda: log.failed)
    with pytest.raises(StorageUnavailable):
        await log.snapshot()
    await log.close()
    with pytest.raises(StartError, match="the state at position 2 does not match its checksum"):
        await JetStreamLog.open(settings)

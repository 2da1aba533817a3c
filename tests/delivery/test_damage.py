"""A store that gives back something else than was written: nobody is shown it, and nobody loses it without a word."""

import asyncio
import sqlite3
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tickets.hub.v1 import event_service_pb2

from hub.archive.backup import back_up
from hub.cli import main
from hub.errors import StartError
from hub.storage.sqlite.log import SqliteLog
from tests.support.calls import info_of
from tests.support.events import ids
from tests.support.hubs import RunningHub, StartHub, emit, only_in_the_log
from tests.support.stores import settings_for
from tests.support.streams import EARLIEST, names_until, notice

DAMAGE = event_service_pb2.GAP_CAUSE_DAMAGE


def change(hub: RunningHub, statement: str, *values: object) -> None:
    """Change the file behind the hub's back, as a bad disk does."""
    connection = sqlite3.connect(hub.settings.data_dir / "hub.db", isolation_level=None)
    connection.execute(statement, values)
    connection.close()


FLIP = "UPDATE entries SET body = CAST(substr(body, 1, length(body) - 1) || 'x' AS BLOB) WHERE id = ?"
MOVE = "UPDATE entries SET guild_id = guild_id + 1 WHERE id = ?"
TURN = "UPDATE entries SET kind = 3 WHERE id = ?"
LOSE = "DELETE FROM entries WHERE id = ?"


@pytest.mark.parametrize("statement", [FLIP, MOVE, TURN, LOSE])
async def test_a_damaged_event_is_a_gap(hub: RunningHub, statement: str) -> None:
    """The events around it arrive in order, with a Gap and its cause between them; health reports the damage."""
    _, reader = await hub.register("TICKET_CREATED")
    names = ids("e", 6)
    await emit(hub, names)
    change(hub, statement, names[2])
    only_in_the_log(hub)
    stream = await reader.subscribe(earliest={}, on_expired_cursor=EARLIEST, max_batch_size=10)
    assert await names_until(stream, names[-1]) == [*names[:2], *names[3:]]
    shown = [
        frame.gap.cause if frame.HasField("gap") else [event.id for event in frame.events] for frame in stream.frames
    ]
    assert [one for one in shown if one] == [names[:2], DAMAGE, names[3:]]
    health = health_pb2_grpc.HealthStub(hub.channel)

    async def store_status() -> int:
        return int((await health.Check(health_pb2.HealthCheckRequest(service="store"))).status)

    while await store_status() != health_pb2.HealthCheckResponse.NOT_SERVING:
        pass
    assert (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING


async def test_the_cursor_of_a_gap_resumes_behind_it(hub: RunningHub) -> None:
    """With it a reader misses nothing; with an earlier cursor it gets the Gap again."""
    _, reader = await hub.register("TICKET_CREATED")
    names = ids("e", 6)
    await emit(hub, names)
    change(hub, FLIP, names[2])
    only_in_the_log(hub)
    stream = await reader.subscribe(earliest={}, on_expired_cursor=EARLIEST)
    gap = await notice(stream, "gap")
    before = stream.frames[-2]
    again = await reader.subscribe(cursor=gap.cursor, subscription_id="b")
    assert await names_until(again, names[-1]) == names[3:]
    assert not any(frame.HasField("gap") for frame in again.frames)
    from_before = await reader.subscribe(cursor=before.cursor, on_expired_cursor=EARLIEST, subscription_id="c")
    assert (await notice(from_before, "gap")).gap.cause == DAMAGE


async def test_damage_ends_a_stream_that_wants_no_gaps(hub: RunningHub) -> None:
    """With on_expired_cursor FAIL the stream ends with CURSOR_EXPIRED, and its cause says that it was damage."""
    _, reader = await hub.register("TICKET_CREATED")
    names = ids("e", 6)
    await emit(hub, names)
    change(hub, FLIP, names[2])
    only_in_the_log(hub)
    stream = await reader.subscribe(earliest={})
    ending = await stream.ending()
    assert (ending.code(), info_of(ending).reason) == (grpc.StatusCode.OUT_OF_RANGE, "CURSOR_EXPIRED")
    assert info_of(ending).metadata["cause"] == "DAMAGE"
    assert [event.id for frame in stream.frames for event in frame.events] == names[:2]


async def test_damaged_state_ends_the_service(hub: RunningHub) -> None:
    """It may be a revocation: streams end, nothing more is stored, and health is NOT_SERVING."""
    _, reader = await hub.register("TICKET_CREATED")
    names = ids("e", 3)
    await emit(hub, names)
    change(hub, "UPDATE entries SET time = time + 1 WHERE key LIKE 'integration/%'")
    only_in_the_log(hub)
    stream = await reader.subscribe(earliest={})
    ending = await stream.ending()
    assert info_of(ending).reason == "STORAGE_UNAVAILABLE"
    assert hub.hub.log.failed
    with pytest.raises(grpc.aio.AioRpcError):
        await emit(hub, ["late"])
    stub = health_pb2_grpc.HealthStub(hub.channel)
    while (await stub.Check(health_pb2.HealthCheckRequest())).status != health_pb2.HealthCheckResponse.NOT_SERVING:
        pass


async def test_a_start_on_damaged_state_is_refused(start_hub: StartHub) -> None:
    """The error has the position and what to do; `hub doctor --verify` names the backup that has the entry."""
    hub = await start_hub()
    await hub.register("TICKET_CREATED")
    await emit(hub, ids("e", 3))
    await hub.close()
    data: Path = hub.settings.data_dir
    words = ["doctor", "--verify", "--data-dir", str(data)]
    assert (await asyncio.to_thread(CliRunner().invoke, main, words)).output == "no damage was found\n"
    backup = data.parent / "whole.bak"
    back_up(settings_for(data), backup)
    change(hub, "UPDATE entries SET body = x'7b7d' WHERE key LIKE 'integration/%'")
    change(hub, FLIP, "e00001")
    with pytest.raises(StartError, match=r"the state at position 3 does not match its checksum; nothing is served"):
        await SqliteLog.open(hub.settings)
    done = await asyncio.to_thread(CliRunner().invoke, main, words)
    assert done.exit_code == 1
    assert done.output.splitlines() == [
        f"the state at position 3 does not match its checksum: sound in {backup}",
        f"the event at position 5 does not match its checksum: sound in {backup}",
    ]
    with pytest.raises(StartError, match="position 3"):
        back_up(settings_for(data), data.parent / "damaged.bak")
    assert not (data.parent / "damaged.bak").exists()

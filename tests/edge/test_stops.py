"""The two ways in which a hub ends: by a signal, and because gRPC's server has ended."""

import asyncio
import socket
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from tickets.hub.v1 import event_service_pb2

from hub.api import grpc_core
from hub.app import Hub
from hub.model import Kind
from tests.support.calls import reason_of
from tests.support.events import event
from tests.support.failures import TICKET, retry_seconds
from tests.support.hubs import PATIENCE, Caller, RunningHub, StartHub, log_of, until
from tests.support.processes import run
from tests.support.stores import settings_for

ROOT = Path(__file__).parents[2]
IN_FLIGHT = 64
ROUNDS = 3

BREAKS = """
import asyncio
from hub import config
from hub.cli.serve import _serve
from tests.edge.test_stops import one_call

async def both():
    settings = config.load()
    ending = asyncio.create_task(one_call(settings.listen))
    await _serve(settings, config.load)

asyncio.run(both())
"""
"""A hub whose serving task ends, while nobody stops it, at the first call."""


def break_serving() -> None:
    """Let gRPC's serving task fail where it hands the next call over, as from grpcio 1.83 on it does at some paths."""
    loop = asyncio.get_running_loop()

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:  # noqa: ANN401  as asyncio has it
        if coro.__qualname__ == "_schedule_rpc_coro":
            loop.set_task_factory(None)
            coro.close()
            raise RuntimeError("broken by the test")
        return asyncio.Task(coro, loop=loop, **options)

    loop.set_task_factory(factory)


async def one_call(address: str) -> None:
    """Break the serving task of a hub at this address once it serves, and have it take a call in."""
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        break_serving()
        with suppress(grpc.aio.AioRpcError):
            call: Any = channel.unary_unary("/x/y", None, None)
            await call(b"", timeout=PATIENCE)


async def emit_until_draining(bot: Caller, names: "asyncio.Queue[str]", ends: Counter[str], kept: list[str]) -> None:
    """Emit one event after the other, as a caller that goes by the time to come again; notes how each ended."""
    while True:
        name = names.get_nowait()
        try:
            await bot.call("EventService/EmitEvent", event_service_pb2.EmitEventRequest(event=event(name, **TICKET)))
        except grpc.aio.AioRpcError as error:
            has_reason = any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ())
            ends[reason_of(error) if has_reason else f"{error.code().name} {error.details()}"] += 1
            assert has_reason and retry_seconds(error) > 0  # noqa: PT017, PT018  whatever else would be a fault
            return
        kept.append(name)


async def test_servers_in_one_loop_find_their_own_serving_tasks() -> None:
    """Several in one event loop, as replicas in a test: none waits for the end of another."""
    servers = [grpc_core.Transport(grpc.aio.server()) for _ in range(3)]
    await asyncio.gather(*(server.start() for server in servers))
    assert len({server._serving for server in servers}) == 3
    for server in servers:
        await server.stop(0)


async def test_a_failed_start_stops_its_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However late the start fails, gRPC serves no call, and has nothing left to stop later."""
    with monkeypatch.context() as patch:
        patch.setattr(grpc_core, "takes_calls", lambda _: False)
        with pytest.raises(RuntimeError, match="serving task cannot be found"):
            await Hub.start(settings_for(tmp_path / "data", listen="127.0.0.1:0"))
    assert not any(grpc_core.takes_calls(task) for task in asyncio.all_tasks())


async def test_a_stop_ends_no_call_without_a_reason(start_hub: StartHub) -> None:
    """Calls that have begun are answered, and stored; later ones are refused with a retry delay."""
    for turn in range(ROUNDS):
        await stop_among_calls(start_hub, turn)


async def stop_among_calls(start_hub: StartHub, turn: int) -> None:
    """Stop a hub while many emit, and look at how each call ended."""
    hub = await start_hub(drain_time=5)
    names: asyncio.Queue[str] = asyncio.Queue()
    for number in range(100_000):
        names.put_nowait(f"{turn}-{number}")
    ends: Counter[str] = Counter()
    kept: list[str] = []
    callers = [asyncio.create_task(emit_until_draining(hub.bot, names, ends, kept)) for _ in range(IN_FLIGHT)]
    await until(lambda: len(kept) > 3 * IN_FLIGHT)
    await hub.hub.stop()
    await asyncio.gather(*callers, return_exceptions=True)
    assert ends == {"DRAINING": IN_FLIGHT}
    await hub.channel.close()
    again = await start_hub()
    stored = {entry.id for entry in await log_of(again, Kind.EVENT)}
    assert set(kept) <= stored
    await again.close()


async def test_a_call_in_flight_is_served_while_the_hub_stops(start_hub: StartHub) -> None:
    """Its request may still come; a new call beside it is refused at once."""
    hub = await start_hub(drain_time=10)
    raw = event_service_pb2.EmitEventRequest(event=event("a", **TICKET)).SerializeToString()
    upload: Any = hub.channel.stream_unary("/tickets.hub.v1.EventService/EmitEvent", None, None)
    begun = upload(metadata=hub.bot.metadata)
    server = hub.hub._server
    assert server is not None
    await until(lambda: server.guards.drain.serving.calls > 0)
    stopping = asyncio.create_task(hub.hub.stop())
    await asyncio.sleep(0)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await hub.emit(event("b", **TICKET))
    assert reason_of(refused.value) == "DRAINING"
    await begun.write(raw)
    await begun.done_writing()
    assert event_service_pb2.EmitEventResponse.FromString(await begun).event_id == "a"
    async with asyncio.timeout(PATIENCE):
        await stopping


async def test_a_hub_that_stops_as_soon_as_it_serves_has_not_failed(start_hub: StartHub) -> None:
    """Whether its serving task was watched already or not."""
    for turns in range(5):
        hub = await start_hub()
        await hub.channel.close()
        for _ in range(turns):
            await asyncio.sleep(0)
        await hub.hub.stop()
        assert not hub.hub.failed.done()


async def test_the_hub_fails_when_its_serving_task_ends(hub: RunningHub) -> None:
    """Although streams are open, for which gRPC itself would wait; the hub can still be stopped."""
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(latest={})
    calling = asyncio.create_task(one_call(hub.address))
    async with asyncio.timeout(PATIENCE):
        await asyncio.wait([hub.hub.failed])
    error = hub.hub.failed.exception()
    assert "takes no more calls" in str(error)
    assert "broken by the test" in str(error and error.__cause__)
    calling.cancel()
    async with asyncio.timeout(PATIENCE):
        await hub.hub.stop()
    assert (await stream.ending()).code() is grpc.StatusCode.UNAVAILABLE


async def test_a_hub_whose_serving_task_ended_exits_with_status_1(tmp_path: Path) -> None:
    """What supervises it starts it again; before, the process stayed and took no call."""
    variables = {"HUB_LISTEN": f"127.0.0.1:{free_port()}", "HUB_DRAIN_TIME": "1", "HUB_DATA_DIR": str(tmp_path)}
    ended = await run([sys.executable, "-c", BREAKS], ROOT, variables)
    assert ended.code == 1
    assert "the hub failed" in ended.out + ended.err


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port

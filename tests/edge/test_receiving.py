"""Calls without their request: judged before anything of it is read, waited for briefly, and limited."""

import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tickets.hub.v1 import event_service_pb2

from hub.api.limits import HalfOpenLimit
from hub.api.receiving import TimeLimit
from hub.errors import RequestTimeout, TooManyCalls
from hub.model import Kind
from tests.support.calls import ask, fails, reason_of
from tests.support.events import event
from tests.support.failures import TICKET, retry_seconds
from tests.support.hubs import PATIENCE, Caller, RunningHub, StartHub, log_of
from tests.support.uploads import CHECK, EMIT, LIST_SCOPES, SUBSCRIBE, WATCH, Upload


def caller_of(hub: RunningHub, reader: Caller, method: str) -> Caller:
    """Somebody who may call a method."""
    return {EMIT: hub.bot, SUBSCRIBE: reader}.get(method, hub.admin)


async def test_a_key_revoked_before_the_request_arrives_is_refused(hub: RunningHub) -> None:
    """Otherwise a withheld request could mint a successor of that key."""
    made, reader = await hub.register("TICKET_CREATED")
    upload = Upload(reader, "/tickets.hub.v1.DeveloperService/RotateOwnKey")
    await upload._call.wait_for_connection()
    await ask(hub.admin, "DirectoryService/ListScopes")  # it came after that call, which the hub has judged by now
    await ask(hub.admin, "AdminService/RevokeKey", integration_id=made.integration_id, key_id=reader.key.split("_")[2])
    await upload.send(b"")
    assert reason_of(await upload.ending()) == "KEY_REVOKED"


@pytest.mark.parametrize("method", [LIST_SCOPES, EMIT, SUBSCRIBE, CHECK, WATCH])
async def test_a_call_needs_exactly_one_request(start_hub: StartHub, method: str) -> None:
    """None, two or none in time: each is refused with what is wrong, and has no effect."""
    hub = await start_hub(request_timeout=0.3)
    _, reader = await hub.register("TICKET_CREATED")
    caller = caller_of(hub, reader, method)
    none = await (await Upload(caller, method).send()).ending()
    two = await (await Upload(caller, method).send(b"", b"")).ending()
    late = await Upload(caller, method).ending()
    unfinished = Upload(caller, method)
    await unfinished._call.write(b"")
    assert [reason_of(error) for error in (none, two, late, await unfinished.ending())] == [
        "INVALID_REQUEST",
        "INVALID_REQUEST",
        "REQUEST_TIMEOUT",
        "REQUEST_TIMEOUT",
    ]
    assert none.details() == "the call ended without a request: send one message"
    assert late.code() is grpc.StatusCode.UNAVAILABLE
    assert retry_seconds(late) > 0


async def test_none_of_two_events_in_one_call_is_stored(hub: RunningHub) -> None:
    """The first of two requests is not served either."""
    raw = event_service_pb2.EmitEventRequest(event=event("a", **TICKET)).SerializeToString()
    assert reason_of(await (await Upload(hub.bot, EMIT).send(raw, raw)).ending()) == "INVALID_REQUEST"
    assert not await log_of(hub, Kind.EVENT)
    await (await Upload(hub.bot, EMIT).send(raw)).reply()
    assert len(await log_of(hub, Kind.EVENT)) == 1


@pytest.mark.parametrize("method", [LIST_SCOPES, EMIT, SUBSCRIBE])
async def test_callers_without_permission_are_refused_before_their_request(start_hub: StartHub, method: str) -> None:
    """A caller without permission is refused at once, even before its message has arrived."""
    hub = await start_hub(request_timeout=3_600)
    _, reader = await hub.register("TICKET_CREATED")
    wrong_role = reader if method == EMIT else hub.bot
    expected = {"": "KEY_MISSING", "x": "KEY_UNKNOWN"} | (
        {wrong_role.key: "ROLE_NOT_ALLOWED"} if method != LIST_SCOPES else {}
    )
    for key, reason in expected.items():
        assert reason_of(await Upload(hub.caller(key), method).ending()) == reason


@pytest.mark.parametrize(("method", "holders"), [(LIST_SCOPES, "integration"), (LIST_SCOPES, "bot"), (CHECK, "nobody")])
async def test_half_open_calls_are_limited(start_hub: StartHub, method: str, holders: str) -> None:
    """One key, and one address, may have so many calls without a request; the next is refused with a retry delay."""
    hub = await start_hub(max_half_open_calls=20, max_streams_per_integration=1, request_timeout=3_600)
    _, reader = await hub.register("TICKET_CREATED")
    caller = {"integration": reader, "bot": hub.bot, "nobody": hub.caller("")}[holders]
    most = 20 if holders == "bot" else 2
    calls = [Upload(caller, method) for _ in range(most + 5)]
    ends = [asyncio.ensure_future(call.ending()) for call in calls]
    async with asyncio.timeout(PATIENCE):
        while sum(end.done() for end in ends) < 5:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)
    refused = [await end for end in ends if end.done()]
    assert {reason_of(error) for error in refused} == {"TOO_MANY_CALLS"}
    assert all(retry_seconds(error) > 0 for error in refused)
    for call, end in zip(calls, ends, strict=True):
        call.cancel()
        end.cancel()
    await asyncio.gather(*ends, return_exceptions=True)


async def test_half_open_calls_of_one_key_do_not_block_others(start_hub: StartHub) -> None:
    """While an integration holds all that it may, others and its own address are served, and health answers."""
    hub = await start_hub(
        max_half_open_calls=20, max_streams_per_integration=1, request_timeout=3_600, max_concurrent_calls=2
    )
    _, reader = await hub.register("TICKET_CREATED")
    held = [Upload(reader, LIST_SCOPES) for _ in range(2)]
    assert reason_of(await Upload(reader, LIST_SCOPES).ending()) == "TOO_MANY_CALLS"
    await hub.emit(event("a", **TICKET))
    await ask(hub.admin, "AdminService/ListIntegrations")
    stub: Any = health_pb2_grpc.HealthStub(hub.channel)
    assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
    for call in held:
        await call.send(b"")
        await call.reply()
    await ask(reader, "DirectoryService/ListScopes")


def test_a_refused_half_open_call_frees_its_slots() -> None:
    """A place that is refused under its second name is free again under its first."""
    limit = HalfOpenLimit()
    with limit.place(("address", 2), ("key", 1)):
        with pytest.raises(TooManyCalls), limit.place(("address", 2), ("key", 1)):
            pass
        with limit.place(("address", 2), ("another key", 1)):
            pass
    assert not limit._inside


async def test_a_time_limit_counts_for_each_call_from_its_own_beginning() -> None:
    """Calls that share a limit each have all of its time, also after an earlier one was interrupted or has finished."""
    limit, loop = TimeLimit(0.2), asyncio.get_running_loop()

    async def call(delay: float, seconds: float) -> float:
        await asyncio.sleep(delay)
        began = loop.time()
        with limit:
            await asyncio.sleep(seconds)
        return loop.time() - began

    async def interrupted(delay: float) -> float:
        began = loop.time()
        with pytest.raises(RequestTimeout):
            await call(delay, 3_600)
        assert not asyncio.current_task().cancelling()  # type: ignore[union-attr]
        return loop.time() - began - delay

    quick, *late = await asyncio.gather(call(0, 0), interrupted(0), interrupted(0.1), interrupted(0.15))
    assert quick < min(late)
    assert all(seconds >= 0.2 for seconds in late)
    assert await interrupted(0) >= 0.2
    assert not limit._deadlines
    assert not limit._late
    assert limit._timer is None


async def test_a_time_limit_hides_no_other_cancellation() -> None:
    """A call that is cancelled ends as cancelled, even if its time is up at the same moment."""
    limit = TimeLimit(0.01)

    async def call() -> None:
        with limit:
            await asyncio.sleep(3_600)

    early, both = asyncio.create_task(call()), asyncio.create_task(call())
    await asyncio.sleep(0)
    early.cancel()
    limit._late.add(both)  # the timer is one turn of the event loop ahead
    both.cancel()
    both.cancel()
    for task in (early, both):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_cancelling_before_the_request_is_no_internal_error(
    hub: RunningHub, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cancelling a call that has sent nothing leaves no line about an incident, and no traceback of gRPC's."""
    for _ in range(20):
        call = Upload(hub.bot, EMIT)
        await asyncio.sleep(0.005)
        call.cancel()
    await hub.emit(event("a", **TICKET))
    await hub.hub.stop()
    told = capsys.readouterr()
    assert "incident" not in told.err
    assert "Traceback" not in told.err + told.out


@pytest.mark.parametrize("second", ["Bearer x", "Basic abc", ""])
async def test_two_authorization_values_are_refused(hub: RunningHub, second: str) -> None:
    """Otherwise a proxy and the hub could read different ones."""
    for values in ((f"Bearer {hub.bot.key}", second), (second, f"Bearer {hub.bot.key}")):
        caller = hub.caller("")
        caller.metadata = tuple(("authorization", value) for value in values)  # type: ignore[assignment]  # two of them
        error = await fails(ask(caller, "DirectoryService/ListScopes"))
        assert (reason_of(error), error.code()) == ("KEY_MISSING", grpc.StatusCode.UNAUTHENTICATED)
        assert "more than one" in str(error.details())


async def test_refusals_in_a_flood_of_guesses_are_short(start_hub: StartHub) -> None:
    """In a flood of guesses some refusals have all details, the others only the status and the sentence."""
    hub = await start_hub(max_failed_authentications=1)
    errors = [await fails(ask(hub.caller("x"), "DirectoryService/ListScopes")) for _ in range(30)]
    assert {error.code() for error in errors[1:]} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
    trailers = [dict(error.trailing_metadata() or ()) for error in errors[1:]]
    rich = [trailer for trailer in trailers if "grpc-status-details-bin" in trailer]
    assert 10 <= len(rich) <= 12
    assert "too many failed authentications" in str(errors[-1].details())

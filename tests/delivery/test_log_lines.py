"""What the log says of streams and changes: one line for each."""

import json
from typing import Any

import pytest
from tickets.hub.v1 import developer_service_pb2

from tests.support.admin_calls import ask, refusal
from tests.support.calls import reason_of
from tests.support.events import ids
from tests.support.hubs import StartHub, emit, live, log_to_memory, until
from tests.support.streams import names_until, standing_still


class Log:
    """What a hub in this process has logged."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._written = log_to_memory(monkeypatch)

    def lines(self, event: str) -> list[dict[str, Any]]:
        """The lines of this kind."""
        every = (json.loads(line) for line in self._written.getvalue().splitlines())
        return [line for line in every if line["event"] == event]


async def test_an_ended_stream_has_one_log_line(start_hub: StartHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reason, owner, duration, number of events, and lag."""
    log, hub = Log(monkeypatch), await start_hub()
    integration, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(subscription_id="main")
    names = ids("e", 3)
    await emit(hub, names)
    assert await names_until(stream, names[-1]) == names
    await ask(hub.admin, "SuspendIntegration", integration_id=integration.integration_id, reason="a check")
    await stream.ending()
    await until(lambda: bool(log.lines("stream ended")))
    [line] = log.lines("stream ended")
    told = {name: line[name] for name in ("reason", "level", "events", "lag", "integration_id", "subscription_id")}
    assert told == {
        "reason": "INTEGRATION_SUSPENDED",
        "level": "info",
        "events": 3,
        "lag": 0.0,
        "integration_id": integration.integration_id,
        "subscription_id": "main",
    }
    assert line["seconds"] >= 0


async def test_a_stream_that_its_client_ended_has_a_log_line(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream that its client ended has a line, too."""
    log, hub = Log(monkeypatch), await start_hub()
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe()
    stream.call.cancel()
    await until(lambda: bool(log.lines("stream ended")))
    assert [line["reason"] for line in log.lines("stream ended")] == ["DISCONNECTED"]


async def test_a_dropped_reader_is_a_warning(start_hub: StartHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that does not read is dropped, with one line that has its lag."""
    log, hub = Log(monkeypatch), await start_hub(write_deadline=1)
    _, reader = await hub.register("TICKET_CREATED")
    async with standing_still(hub, reader) as still:
        stream = await still.subscribe()
        await emit(hub, ids("e", 5_000))
        await until(lambda: not live(hub))
        assert reason_of(await stream.ending()) == "SLOW_CONSUMER"
        await until(lambda: bool(log.lines("stream ended")))
    [line] = log.lines("stream ended")
    assert (line["reason"], line["level"], line["lag"] > 0) == ("SLOW_CONSUMER", "warning", True)


async def test_each_change_has_one_log_line(start_hub: StartHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """By admins, developers, and the bot for a user: the method, the caller, and what was changed."""
    log, hub = Log(monkeypatch), await start_hub()
    integration, developer = await hub.register("TICKET_CREATED")
    own = integration.integration_id
    key_id = developer.key.split("_")[2]
    await ask(hub.admin, "SuspendIntegration", integration_id=own, reason="a check")
    await ask(hub.admin, "ResumeIntegration", integration_id=own, reason="a check")
    await developer.call("DeveloperService/RotateOwnKey", developer_service_pb2.RotateOwnKeyRequest())
    blocks = [{"user_id": str(9 * 10**16 + n), "source": "us", "reason": "a check"} for n in range(3)]
    await ask(hub.admin, "BatchBlockDevelopers", requests=blocks)
    lines = [(line["method"], line["caller"], line["count"]) for line in log.lines("changed")]
    admin = f"admin:{hub.admin.key.split('_')[2]}"
    assert lines == [
        ("AdminService/RegisterIntegration", admin, 1),
        ("AdminService/SuspendIntegration", admin, 1),
        ("AdminService/ResumeIntegration", admin, 1),
        ("DeveloperService/RotateOwnKey", f"integration:{key_id}", 1),
        ("AdminService/BatchBlockDevelopers", admin, 3),
    ]
    assert {line["target"] for line in log.lines("changed")[:4]} == {f"integration/{own}"}
    assert not any(secret.split("_")[3] in str(log.lines("changed")) for secret in (hub.admin.key, developer.key))


async def test_refused_calls_have_no_line_of_a_change(start_hub: StartHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that was not made is no change, and a stream that was not opened does not end."""
    log, hub = Log(monkeypatch), await start_hub()
    integration, reader = await hub.register("TICKET_CREATED")
    own = integration.integration_id
    await ask(hub.admin, "SuspendIntegration", integration_id=own, reason="a check")
    await refusal(ask(hub.admin, "SuspendIntegration", integration_id=own, reason="a check"))
    assert await reader.open().ending()
    assert [len(log.lines(event)) for event in ("changed", "stream ended")] == [2, 0]

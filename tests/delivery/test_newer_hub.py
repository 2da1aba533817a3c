"""A store that a newer hub has written to beside this one."""

from tickets.hub.v1 import admin_service_pb2

from hub.control.audit import encode_change
from hub.control.transactions import COMMAND_LINE
from hub.model import Entry, Kind, UseRecord
from tests.support.hubs import StartHub, emit, log_of
from tests.support.streams import names_until


async def test_unknown_kinds_of_state_are_skipped(start_hub: StartHub) -> None:
    """A kind of state that this hub does not know ends neither the pump nor the next start; it stays in the log."""
    hub = await start_hub()
    _, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe()
    body = encode_change(COMMAND_LINE, None, UseRecord(1), "of a newer hub")
    await hub.hub.log.append([Entry(Kind.STATE, 1, body, key="of-tomorrow/7")])
    await emit(hub, ["after"])
    assert await names_until(stream, "after") == ["after"]
    await hub.close()
    again = await start_hub()
    audit = await again.admin.call("AdminService/ListAuditEntries", admin_service_pb2.ListAuditEntriesRequest())
    assert audit.entries
    assert [e.key for e in await log_of(again, Kind.STATE) if e.key.startswith("of-")] == ["of-tomorrow/7"]

"""The audit trail is trimmed by one hub while another goes on, and before a third starts."""

from typing import Any

from hub.app import Hub
from hub.privacy.audit_retention import PSEUDONYM, AuditRetention
from tests.support.calls import ask
from tests.support.governance import apply_for, approve
from tests.support.hubs import FakeClock, RunningHub, until
from tests.support.privacy import USER, in_the_store


async def shown(hub: RunningHub, integration_id: str) -> Any:  # noqa: ANN401  an integration and its changes
    """What a hub shows of an integration: its record, and each of its changes, page by page."""
    record = (await ask(hub.admin, "AdminService/GetIntegration", integration_id=integration_id)).integration
    changes, token = [], ""
    while True:
        request = {"integration_id": integration_id, "page_size": 1, "page_token": token}
        reply = await ask(hub.admin, "AdminService/ListAuditEntries", **request)
        changes += [(entry.method, entry.reason) for entry in reply.entries]
        token = reply.next_page_token
        if not token:
            return record, changes


async def test_other_replicas_show_the_trimmed_audit_trail(two: list[RunningHub]) -> None:
    """A running one, although it has just shown the full trail, and one that starts later."""
    one, other = two
    gone = (await apply_for(one, "TICKET_CREATED", owner_user_id=USER)).integration_id
    kept = (await apply_for(one, "TICKET_CREATED")).integration_id
    for integration_id in (gone, kept):
        await approve(one, integration_id)
    await ask(one.admin, "AdminService/DeleteIntegration", integration_id=gone, reason="over")
    await other.hub.registry.wait_applied((await one.hub.log.bounds()).last)
    assert len((await shown(other, gone))[1]) == 3
    clock = FakeClock()
    clock.wall_offset += round((one.settings.audit_retention + 10) * 1e6)
    await AuditRetention(one.hub.log, one.hub.registry, one.settings, clock).remove_old()
    await until(lambda: other.hub.registry.integration(gone).record.owner_user_id.startswith(PSEUDONYM))
    assert in_the_store(one, USER) == 0
    for integration_id, changes in ((gone, 1), (kept, 1)):
        here = await shown(one, integration_id)
        assert len(here[1]) == changes
        assert await shown(other, integration_id) == here
    await ask(other.admin, "AdminService/SuspendIntegration", integration_id=kept, reason="now")
    await one.hub.registry.wait_applied((await other.hub.log.bounds()).last)
    third = RunningHub(await Hub.start(one.settings), one.settings, one.keys)
    try:
        for integration_id in (gone, kept):
            assert await shown(third, integration_id) == await shown(one, integration_id)
    finally:
        await third.close()

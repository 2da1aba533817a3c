"""Integrations for the pages: hostile texts, installations, and very many at once."""

from msgspec.structs import replace
from tickets.hub.v1.directory_service_pb2 import InstallIntegrationRequest, SubmitApplicationRequest

from hub.control.audit import encode_change
from hub.control.transactions import COMMAND_LINE
from hub.model import Entry, Kind
from hub.state import INTEGRATION
from tests.support.hubs import REGISTRATION, RunningHub, scope_requests

HTML = "<img src=x onerror=alert(1)><script>alert(2)</script>"
RIGHT_TO_LEFT = "תמיכה ועזרה <b>&amp;</b> مساعدة"
UNBROKEN = "W" * 80
LONG = "m" * 1_000
NAMES = (HTML, RIGHT_TO_LEFT, UNBROKEN)
"""What a name may be, by the contract: up to 80 characters without controls and overrides."""


async def install(hub: RunningHub, integration_id: str, guild_id: int = 51) -> None:
    """Have a guild install an integration."""
    request = InstallIntegrationRequest(integration_id=integration_id, guild_id=str(guild_id), acting_user_id="7")
    await hub.bot.call("DirectoryService/InstallIntegration", request)


async def apply(hub: RunningHub, *scopes: str, **fields: str) -> str:
    """An application for scopes; returns its id."""
    texts = REGISTRATION | fields
    request = SubmitApplicationRequest(**texts, rules_accepted=True)  # type: ignore[arg-type]  # texts all
    request.scopes.extend(scope_requests(*scopes))
    return str((await hub.bot.call("DirectoryService/SubmitApplication", request)).integration.integration_id)


async def multiply(hub: RunningHub, integration_id: str, count: int) -> None:
    """Integrations like one that is there, with names and ids of their own, straight into the log."""
    record = replace(hub.hub.registry.integration(integration_id).record, keys=())
    entries = []
    for number in range(count):
        other = replace(record, integration_id=f"M{number:011d}", display_name=f"Copy {number:05d}")
        body = encode_change(COMMAND_LINE, None, other, "")
        entries.append(Entry(Kind.STATE, record.create_time, body, key=INTEGRATION.key(other.integration_id)))
    for start in range(0, count, 1_000):
        appended = await hub.hub.log.append(entries[start : start + 1_000])
    await hub.hub.registry.wait_applied(appended[-1].position)

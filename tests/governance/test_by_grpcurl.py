"""Governance with the real grpcurl, as an admin drives it, and the bot's side of the same: by reflection alone."""

import asyncio
import json
import re
from asyncio.subprocess import PIPE
from typing import Any

import pytest

from tests.support.governance import OWNER, STRANGER
from tests.support.hubs import PATIENCE, REGISTRATION, RunningHub
from tests.support.programs import needs


def snake(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Fields by the contract's names: some releases of grpcurl print "integrationId"."""
    return {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower(): value for name, value in pairs}


class Curl:
    """grpcurl, pointed at a hub."""

    def __init__(self, hub: RunningHub) -> None:
        self._hub = hub
        self._program = needs("grpcurl")

    async def run(self, key: str, method: str, **request: Any) -> tuple[int, str, str]:  # noqa: ANN401  JSON
        """Its status, what it printed, its complaints."""
        words = ["-plaintext", "-H", f"authorization: Bearer {key}", "-d", json.dumps(request), self._hub.address]
        process = await asyncio.create_subprocess_exec(
            self._program, *words, f"tickets.hub.v1.{method}", stdin=PIPE, stdout=PIPE, stderr=PIPE
        )
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()

    async def __call__(self, key: str, method: str, **request: Any) -> Any:  # noqa: ANN401  JSON
        """The answer; fails where there is none."""
        code, out, err = await self.run(key, method, **request)
        assert (code, err) == (0, "")
        return json.loads(out, object_pairs_hook=snake)

    async def refused(self, key: str, method: str, **request: Any) -> str:  # noqa: ANN401  JSON
        """What it prints of a refusal; fails where it is answered."""
        code, _, err = await self.run(key, method, **request)
        assert code != 0
        return err


@pytest.fixture
def curl(hub: RunningHub) -> Curl:
    """Grpcurl and a hub."""
    return Curl(hub)


async def test_the_life_of_an_integration_by_grpcurl(hub: RunningHub, curl: Curl) -> None:
    """Applied for, approved in part, a key taken, installed, found, blocked and unblocked: each answered as JSON."""
    admin, bot = hub.admin.key, hub.bot.key
    made = await curl(
        bot,
        "DirectoryService/SubmitApplication",
        **REGISTRATION,
        rules_accepted=True,
        guild_access="GUILD_ACCESS_INSTALLED",
        scopes=[
            {"scope": "SCOPE_TICKET_CREATED", "justification": "counts them"},
            {"scope": "SCOPE_TICKET_STATS", "justification": "counts messages"},
        ],
    )
    one = made["integration"]["integration_id"]
    assert made["integration"]["state"] == "INTEGRATION_STATE_PENDING"
    approval = {"integration_id": one, "scopes": ["SCOPE_TICKET_CREATED"], "reason": "statistics need no more"}
    active = await curl(admin, "AdminService/ApproveIntegration", **approval)
    assert [grant["scope"] for grant in active["integration"]["grants"]] == ["SCOPE_TICKET_CREATED"]
    own = {"integration_id": one, "acting_user_id": OWNER}
    taken = await curl(bot, "DeveloperService/RotateOwnKey", **own)
    key = taken["key"]["secret"]
    guild = {"integration_id": one, "guild_id": "51", "acting_user_id": STRANGER}
    consent = await curl(bot, "DirectoryService/InstallIntegration", **guild)
    assert consent["installation"]["agreed_scopes"] == ["SCOPE_TICKET_CREATED"]
    sample = {"guild_id": "51", "ticket_closed": {"message_count": 3}}
    preview = await curl(key, "DeveloperService/PreviewEvent", event=sample)
    assert "delivered" not in preview
    assert preview["withheld"][0]["scopes"] == ["SCOPE_TICKET_STATS"]
    [entry] = (await curl(key, "DirectoryService/FindIntegrations", query="stat"))["integrations"]
    assert (entry["guild_count"], entry["fields"]) == (1, ["ticket_created.creator_user_id"])
    word = {"user_id": OWNER, "source": "CyberShield", "reason": "sold user data"}
    blocked = await curl(admin, "AdminService/BlockDeveloper", **word)
    assert blocked["developer"]["integration_ids"] == [one]
    assert await curl(bot, "DirectoryService/FindIntegrations") == {}
    assert await curl(admin, "AdminService/UnblockDeveloper", user_id=OWNER) == {}
    trail = (await curl(admin, "AdminService/ListAuditEntries", integration_id=one))["entries"]
    assert [line["method"].partition("/")[2] for line in trail][::-1] == [
        "SubmitApplication",
        "ApproveIntegration",
        "RotateOwnKey",
        "InstallIntegration",
        "BlockDeveloper",
        "UnblockDeveloper",
    ]
    report = (await curl(admin, "AdminService/GetPrivilegeReport", integration_id=one)).get("findings", [])
    assert report == []


async def test_refusals_are_readable_on_a_terminal(hub: RunningHub, curl: Curl) -> None:
    """Grpcurl prints the status, a sentence that says what to do, and the reason."""
    application = {**REGISTRATION, "scopes": [{"scope": "SCOPE_TICKET_CREATED", "justification": "x"}]}
    said = await curl.refused(hub.bot.key, "DirectoryService/SubmitApplication", **application)
    assert "FailedPrecondition" in said
    assert "accept the rules" in said
    assert "RULES_NOT_MET" in said
    integration, _ = await hub.register("TICKET_CREATED")
    asks = {"integration_id": integration.integration_id, "acting_user_id": STRANGER}
    said = await curl.refused(hub.bot.key, "DeveloperService/GetOwnIntegration", **asks)
    assert "PermissionDenied" in said
    assert "NOT_OWNER" in said
    said = await curl.refused(hub.admin.key, "AdminService/ResumeIntegration", **asks | {"acting_user_id": ""})
    assert "acting_user_id" in said, "a field that a request does not have is refused by grpcurl itself"
    asks.pop("acting_user_id")
    said = await curl.refused(hub.admin.key, "AdminService/ResumeIntegration", **asks)
    assert "the integration is ACTIVE; this is possible only while it is SUSPENDED" in said

"""The console's calls: the contract's methods as JSON, judged as gRPC judges them, and by whose page asks."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import aiohttp
import pytest
from tickets.hub.v1.admin_service_pb2 import ListAuditEntriesRequest
from tickets.hub.v1.directory_service_pb2 import SubmitApplicationRequest
from tickets.hub.v1.permissions_pb2 import SCOPE_TICKET_CREATED, SCOPE_TICKET_STATS

from hub.permissions import SCOPES
from tests.operations.scraping import PATIENCE, get
from tests.support.calls import fails, reason_of
from tests.support.hubs import REGISTRATION, FakeClock, RunningHub, StartHub, scope_requests

ADMINS = (
    *("WatchHub", "GetIntegration", "ApproveIntegration", "RejectIntegration"),
    *("SuspendIntegration", "ResumeIntegration", "GetPrivilegeReport", "ListAuditEntries"),
)
LIST, APPROVE = "AdminService/ListIntegrations", "AdminService/ApproveIntegration"


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def reason(self) -> str:
        """Why it was refused."""
        return str(self.body["error"]["reason"])


@pytest.fixture
async def hub(start_hub: StartHub) -> RunningHub:
    """A hub with an HTTP listener on a free port."""
    return await start_hub(FakeClock(), http_listen="127.0.0.1:0")


async def post(hub: RunningHub, name: str, body: object = None, key: str | None = None, **headers: str) -> Answer:
    """Call a method as the console does; headers by name, with _ for -; a body of bytes goes as it is."""
    sent = {"Content-Type": "application/json", "Authorization": f"Bearer {hub.admin.key if key is None else key}"}
    sent |= {header.replace("_", "-"): value for header, value in headers.items()}
    data = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    url = f"http://127.0.0.1:{hub.hub.http.port}/console/api/{name}"
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(PATIENCE)) as session,
        session.post(url, data=data, headers={name: value for name, value in sent.items() if value}) as response,
    ):
        text = await response.text()
        return Answer(response.status, response.headers, json.loads(text) if text.startswith("{") else text)


async def apply(hub: RunningHub) -> str:
    """An application for two scopes; returns its id."""
    request = SubmitApplicationRequest(**REGISTRATION, rules_accepted=True)  # type: ignore[arg-type]  # texts all
    request.scopes.extend(scope_requests("TICKET_CREATED", "TICKET_STATS"))
    return str((await hub.bot.call("DirectoryService/SubmitApplication", request)).integration.integration_id)


async def test_the_shell_needs_no_key_and_holds_no_data(hub: RunningHub) -> None:
    """A strict policy, no store, no cookies; every file that it names is there, and nothing lies elsewhere."""
    await hub.register("TICKET_CREATED", display_name="Secret name")
    shell = await get(hub.hub.http.port, "/console")
    assert shell.status == 200
    assert "Secret name" not in shell.text
    assert "default-src 'none'" in shell.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in shell.headers["Content-Security-Policy"]
    for name in ("console.js", "console.css", "icon.svg"):
        assert f'"/console/{name}"' in shell.text
        file = await get(hub.hub.http.port, f"/console/{name}")
        assert (file.status, file.headers["Cache-Control"]) == (200, "no-store")
        assert "Set-Cookie" not in file.headers
    assert "://" not in shell.text


async def test_an_admin_decides_and_the_audit_trail_has_it(hub: RunningHub) -> None:
    """The same change as by gRPC: the chosen scopes, the actor, the method and the reason."""
    one = await apply(hub)
    found = (await post(hub, LIST, {"filter": "requested_scopes:*"})).body["integrations"]
    assert [waiting["integration_id"] for waiting in found] == [one]
    request = {"integration_id": one, "etag": found[0]["etag"], "scopes": ["SCOPE_TICKET_CREATED"], "reason": "fits"}
    answer = await post(hub, APPROVE, request)
    assert answer.status == 200
    assert answer.body["integration"]["state"] == "INTEGRATION_STATE_ACTIVE"
    assert [grant["scope"] for grant in answer.body["integration"]["grants"]] == ["SCOPE_TICKET_CREATED"]
    assert (await post(hub, LIST, {"filter": "requested_scopes:*"})).body["integrations"] == []
    trail = await hub.admin.call("AdminService/ListAuditEntries", ListAuditEntriesRequest(integration_id=one))
    newest = trail.entries[0]
    assert (newest.method, newest.reason, newest.actor.key_name) == (APPROVE, "fits", "first admin key")
    again = await post(hub, APPROVE, request)
    assert (again.status, again.reason) == (409, "ETAG_MISMATCH")


async def test_the_filter_finds_pending_requests(hub: RunningHub) -> None:
    """By any scope or by one; an unknown scope is refused."""
    await apply(hub)
    await hub.register("TICKET_CREATED")
    for scope, count in ("*", 1), ("ticket_stats", 1), ("drop_claimed", 0):
        found = await post(hub, LIST, {"filter": f"requested_scopes:{scope}"})
        assert len(found.body["integrations"]) == count
    assert (await post(hub, LIST, {"filter": "requested_scopes:nothing"})).reason == "INVALID_REQUEST"


async def test_every_role_but_admin_is_refused(hub: RunningHub) -> None:
    """The contract's table decides, as for gRPC."""
    _, reader = await hub.register("TICKET_CREATED")
    for key in (hub.bot.key, reader.key):
        for name in (LIST, *(f"AdminService/{method}" for method in ADMINS)):
            answer = await post(hub, name, key=key)
            assert (answer.status, answer.reason) == (403, "ROLE_NOT_ALLOWED")


async def test_a_scope_is_described_as_the_contract_has_it(hub: RunningHub) -> None:
    """Names of enum values, not their numbers."""
    scopes = (await post(hub, "DirectoryService/ListScopes")).body["scopes"]
    assert [scope["name"] for scope in scopes] == [scope.name for scope in SCOPES.values()]
    by_number = {SCOPE_TICKET_CREATED: "SCOPE_TICKET_CREATED", SCOPE_TICKET_STATS: "SCOPE_TICKET_STATS"}
    assert {scope["scope"] for scope in scopes} >= set(by_number.values())


async def test_invalid_requests_name_their_field(hub: RunningHub) -> None:
    """The contract's rules hold; a body that is not JSON, or not such a message, is refused, too."""
    answer = await post(hub, "AdminService/RejectIntegration", {"integration_id": "x"})
    assert (answer.status, answer.reason) == (400, "INVALID_REQUEST")
    assert "reason: is required" in answer.body["error"]["message"]
    answer = await post(hub, "AdminService/SuspendIntegration", {"integration_id": "x", "reason": "m" * 2_000})
    assert (answer.status, answer.reason) == (400, "INVALID_REQUEST")
    assert "reason: " in answer.body["error"]["message"]
    for body in (b"{", b"[]", b'{"nothing": 1}', b"\xff", b"[" * 5000, b'{"page_size": "many"}'):
        answer = await post(hub, LIST, body)
        assert (answer.status, answer.reason) == (400, "INVALID_REQUEST")
    assert (await post(hub, "AdminService/RotateKey")).status == 404


async def test_guessed_keys_count_together_over_http_and_grpc(start_hub: StartHub) -> None:
    """Four wrong keys, here and there: then the address has to wait, and a valid key still opens."""
    hub = await start_hub(FakeClock(), http_listen="127.0.0.1:0", max_failed_authentications=4)
    wrong = hub.admin.key[:-1] + ("a" if hub.admin.key[-1] != "a" else "b")
    for number in range(4):
        if number % 2:
            assert (await post(hub, LIST, key=wrong)).reason == "KEY_UNKNOWN"
        else:
            assert reason_of(await fails(hub.caller(wrong).call(LIST, ListAuditEntriesRequest()))) == "KEY_UNKNOWN"
    throttled = await post(hub, LIST, key=wrong)
    assert (throttled.status, throttled.reason) == (429, "AUTH_THROTTLED")
    assert (await post(hub, LIST, key="", Authorization="")).status == 429
    assert (await post(hub, LIST)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"},
    ],
)
async def test_requests_of_other_origins_are_refused(hub: RunningHub, headers: dict[str, str]) -> None:
    """Even with a valid key; and no header lets the page read the refusal."""
    answer = await post(hub, LIST, **headers)
    assert answer.status == 403
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]


async def test_the_console_can_be_opened_by_a_link(hub: RunningHub) -> None:
    """From a page of another site: by its visitor, and not into a frame."""
    visit = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert (await get(hub.hub.http.port, "/console", **visit, Sec_Fetch_Dest="document")).status == 200
    assert (await get(hub.hub.http.port, "/console", **visit, Sec_Fetch_Dest="iframe")).status == 403
    assert (await get(hub.hub.http.port, "/console", Host="evil.example")).status == 421


async def test_forms_of_other_pages_are_refused(hub: RunningHub) -> None:
    """A browser sends its kinds of content without asking us first; none of them is JSON."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert (await post(hub, LIST, Content_Type=kind)).status == 415


async def test_callers_behind_a_proxy_are_throttled_separately(start_hub: StartHub) -> None:
    """By the address that the trusted proxy names, as for gRPC."""
    flags = {"max_failed_authentications": 1, "trusted_proxies": "127.0.0.1"}
    hub = await start_hub(FakeClock(), http_listen="127.0.0.1:0", **flags)
    guesses = [await post(hub, LIST, key="x", X_Forwarded_For=f"192.0.2.{number}") for number in (1, 2, 1)]
    assert [guess.status for guess in guesses] == [401, 401, 429]


async def test_a_stopping_hub_refuses_console_calls_with_its_reason(hub: RunningHub) -> None:
    """As gRPC does: the console says that the hub is away, and tries again."""
    server = hub.hub._server
    assert server is not None
    server.guards.drain.begin()
    answer = await post(hub, LIST)
    assert (answer.status, answer.reason) == (503, "DRAINING")

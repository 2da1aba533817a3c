"""WebhookService: who may do what to which endpoint, and what each refusal says."""

import asyncio
from typing import Any

import pytest

from tests.support.calls import ask, fails, info_of, reason_of
from tests.support.hubs import REGISTRATION, Caller, RunningHub, StartHub
from tests.support.receivers import ALLOWED, connect, create, receiving

OWNER, STRANGER = REGISTRATION["owner_user_id"], "90351110224678913"
URL = "https://hooks.stats.example/in"
DEVELOPERS = (
    *("CreateEndpoint", "UpdateEndpoint", "GetEndpoint", "ListEndpoints", "DeleteEndpoint", "VerifyEndpoint"),
    *("PauseEndpoint", "ResumeEndpoint", "RotateEndpointSecret", "RewindEndpoint", "ListAttempts"),
)


def request(method: str) -> dict[str, Any]:
    """What a method needs beside the integration."""
    if method in ("CreateEndpoint", "UpdateEndpoint"):
        return {"endpoint": {"url": URL}}
    return {"latest": True} if method == "RewindEndpoint" else {}


@pytest.mark.parametrize("method", DEVELOPERS)
async def test_only_owner_integration_and_admins_reach_an_endpoint(hub: RunningHub, method: str) -> None:
    """Others get the same error for existing and unknown ids."""
    integration, owner = await hub.register("TICKET_CREATED")
    other, stranger = await hub.register("TICKET_CREATED")
    await ask(owner, "WebhookService/CreateEndpoint", endpoint={"url": URL})
    call = f"WebhookService/{method}"
    for unknown in (integration.integration_id, "zzzzzzzzzzzz"):
        error = await fails(ask(stranger, call, integration_id=unknown, **request(method)))
        assert reason_of(error) == "INTEGRATION_NOT_FOUND"
    bot = {"integration_id": integration.integration_id, "acting_user_id": STRANGER}
    assert reason_of(await fails(ask(hub.bot, call, **bot, **request(method)))) == "NOT_OWNER"
    assert reason_of(await fails(ask(hub.bot, call, **request(method)))) == "INVALID_REQUEST"
    assert reason_of(await fails(ask(hub.caller(""), call, **request(method)))) == "KEY_MISSING"
    listed = await ask(stranger, "WebhookService/ListEndpoints", integration_id=other.integration_id)
    assert list(listed.endpoints) == []


async def test_the_bot_sees_the_states_of_the_owners_endpoints(hub: RunningHub) -> None:
    """Beside the integrations of the page, and of no others; an integration's key shows its own endpoints."""
    first, reader = await hub.register("TICKET_CREATED")
    second, _ = await hub.register("TICKET_CREATED", endpoint_url=URL)
    strangers, _ = await hub.register("TICKET_CREATED", endpoint_url=URL, owner_user_id=STRANGER)
    for endpoint_id in ("b", "a"):
        await ask(reader, "WebhookService/CreateEndpoint", endpoint={"url": URL, "endpoint_id": endpoint_id})
    named = {"integration_id": first.integration_id, "endpoint_id": "b"}
    await ask(hub.admin, "WebhookService/DisableEndpoint", **named, reason="it floods others")

    async def listed(caller: Caller, **fields: str | int) -> list[tuple[str, str, int, str]]:
        found = await ask(caller, "DeveloperService/ListOwnIntegrations", **fields)
        return [(one.integration_id, one.endpoint_id, one.state, one.disable_reason) for one in found.endpoints]

    own = [(first.integration_id, "a", 1, ""), (first.integration_id, "b", 5, "it floods others")]
    assert await listed(reader) == own
    assert await listed(hub.bot, acting_user_id=OWNER, page_size=1) == own
    assert await listed(hub.bot, acting_user_id=OWNER) == [*own, (second.integration_id, "default", 1, "")]
    assert await listed(hub.bot, acting_user_id=STRANGER) == [(strangers.integration_id, "default", 1, "")]


async def test_owner_integration_and_admin_may_change_an_endpoint(hub: RunningHub) -> None:
    """Three callers, one endpoint; only an admin may disable it, and only an admin resume it then."""
    integration, reader = await hub.register("TICKET_CREATED")
    named = {"integration_id": integration.integration_id}
    by_bot = named | {"acting_user_id": OWNER}
    made = await ask(hub.bot, "WebhookService/CreateEndpoint", **by_bot, endpoint={"url": URL})
    assert made.secret.startswith("whsec_")
    assert made.endpoint.public_key.startswith("whpk_")
    for caller, fields in ((hub.bot, by_bot), (hub.admin, named), (reader, {})):
        found = (await ask(caller, "WebhookService/GetEndpoint", **fields)).endpoint
        assert (found.url, found.endpoint_id, found.state) == (URL, "default", 1)
    error = await fails(ask(reader, "WebhookService/DisableEndpoint", **named, reason="x"))
    assert reason_of(error) == "ROLE_NOT_ALLOWED"
    disabled = await ask(hub.admin, "WebhookService/DisableEndpoint", **named, reason="it floods others")
    assert (disabled.endpoint.state, disabled.endpoint.disable_reason) == (5, "it floods others")
    error = await fails(ask(reader, "WebhookService/ResumeEndpoint"))
    assert reason_of(error) == "STATE_FORBIDS"
    assert "it floods others" in (error.details() or "")
    assert reason_of(await fails(ask(reader, "WebhookService/VerifyEndpoint"))) == "STATE_FORBIDS"


async def test_secrets_are_shown_once_and_never_logged(hub: RunningHub, capsys: pytest.CaptureFixture[str]) -> None:
    """Not in a later reply, not in the audit trail, not in the log, not in the store."""
    integration, reader = await hub.register("TICKET_CREATED")
    made = await ask(reader, "WebhookService/CreateEndpoint", endpoint={"url": f"{URL}?token=hidden"})
    rotated = await ask(reader, "WebhookService/RotateEndpointSecret")
    assert made.secret != rotated.secret
    trail = await ask(hub.admin, "AdminService/ListAuditEntries", integration_id=integration.integration_id)
    later = await ask(reader, "WebhookService/ListEndpoints")
    shown = f"{trail}{later}{capsys.readouterr()}"
    for secret in (made.secret, rotated.secret):
        assert secret.removeprefix("whsec_") not in shown
    assert "token=hidden" not in str(trail)
    page = await hub.hub.log.read(0, 1_000)
    assert not any(made.secret.removeprefix("whsec_").encode() in entry.body for entry in page.entries)


async def test_an_endpoint_can_be_created_once(hub: RunningHub) -> None:
    """The same id again, and one more than there may be, are refused; a deleted one makes room."""
    _, reader = await hub.register("TICKET_CREATED")
    for number in range(5):
        await ask(reader, "WebhookService/CreateEndpoint", endpoint={"endpoint_id": f"e{number}", "url": URL})
    error = await fails(ask(reader, "WebhookService/CreateEndpoint", endpoint={"endpoint_id": "e0", "url": URL}))
    assert reason_of(error) == "ENDPOINT_EXISTS"
    error = await fails(ask(reader, "WebhookService/CreateEndpoint", endpoint={"endpoint_id": "e5", "url": URL}))
    assert reason_of(error) == "TOO_MANY_ENDPOINTS"
    await ask(reader, "WebhookService/DeleteEndpoint", endpoint_id="e0")
    assert reason_of(await fails(ask(reader, "WebhookService/GetEndpoint", endpoint_id="e0"))) == "ENDPOINT_NOT_FOUND"
    await ask(reader, "WebhookService/CreateEndpoint", endpoint={"url": URL})
    pages, token = [], ""
    while True:
        page = await ask(reader, "WebhookService/ListEndpoints", page_size=2, page_token=token)
        pages.append([one.endpoint_id for one in page.endpoints])
        token = page.next_page_token
        if not token:
            break
    assert pages == [["default", "e1"], ["e2", "e3"], ["e4"]]


async def test_changes_follow_the_mask_and_the_etag(hub: RunningHub) -> None:
    """Only what the mask names changes; an etag from before a change is refused."""
    _, reader = await hub.register("TICKET_CREATED")
    made = await ask(reader, "WebhookService/CreateEndpoint", endpoint={"url": URL, "max_batch_size": 7})
    changed = await ask(
        reader,
        "WebhookService/UpdateEndpoint",
        endpoint={"max_rate": 3, "max_batch_size": 9, "format": 2},
        update_mask={"paths": ["max_rate", "format"]},
        etag=made.endpoint.etag,
    )
    assert (changed.endpoint.max_rate, changed.endpoint.max_batch_size, changed.endpoint.format) == (3, 7, 2)
    stale = ask(reader, "WebhookService/UpdateEndpoint", endpoint={"max_rate": 4}, etag=made.endpoint.etag)
    assert reason_of(await fails(stale)) == "ETAG_MISMATCH"
    wrong = ask(reader, "WebhookService/UpdateEndpoint", endpoint={}, update_mask={"paths": ["state"]})
    assert reason_of(await fails(wrong)) == "INVALID_REQUEST"
    foreign = ask(reader, "WebhookService/UpdateEndpoint", endpoint={"scopes": [5]})
    assert info_of(await fails(foreign)).metadata["scopes"] == "ticket_stats"


@pytest.mark.parametrize(
    "fields",
    [
        {"url": URL, "endpoint_id": "a b"},
        {"url": URL, "endpoint_id": "~x"},
        {"url": URL, "max_batch_size": 101},
        {"url": URL, "max_batch_size": -1},
        {"url": URL, "max_rate": 21},
        {"url": URL, "guild_ids": ["x"]},
        {"url": URL, "guild_ids": ["1", "1"]},
        {"url": URL, "scopes": [99]},
        {"url": URL, "format": 9},
        {"url": ""},
    ],
)
async def test_invalid_fields_are_refused(hub: RunningHub, fields: dict[str, Any]) -> None:
    """Each is INVALID_REQUEST, and nothing is made."""
    _, reader = await hub.register("TICKET_CREATED")
    assert reason_of(await fails(ask(reader, "WebhookService/CreateEndpoint", endpoint=fields))) == "INVALID_REQUEST"
    assert not (await ask(reader, "WebhookService/ListEndpoints")).endpoints


async def test_the_profile_and_the_endpoint_are_one_state(hub: RunningHub) -> None:
    """Written here, it is read there, both ways; an empty URL is no endpoint."""
    _, reader = await hub.register("TICKET_CREATED")

    async def profile(url: str) -> None:
        mask = {"paths": ["endpoint_url"]}
        await ask(reader, "DeveloperService/UpdateProfile", integration={"endpoint_url": url}, update_mask=mask)

    await profile(URL)
    assert (await ask(reader, "WebhookService/GetEndpoint")).endpoint.url == URL
    await ask(reader, "WebhookService/UpdateEndpoint", endpoint={"url": f"{URL}2"})
    own = (await ask(reader, "DeveloperService/GetOwnIntegration")).integration
    assert own.endpoint_url == f"{URL}2"
    await profile("")
    assert reason_of(await fails(ask(reader, "WebhookService/GetEndpoint"))) == "ENDPOINT_NOT_FOUND"
    await ask(reader, "WebhookService/CreateEndpoint", endpoint={"url": URL})
    await ask(reader, "WebhookService/DeleteEndpoint")
    own = (await ask(reader, "DeveloperService/GetOwnIntegration")).integration
    assert own.endpoint_url == ""


async def test_a_changed_profile_stops_delivery_to_the_former_url(start_hub: StartHub) -> None:
    """From the answer on nothing goes to the URL that was taken out."""
    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        await connect(reader, receiver)
        await receiver.until(lambda: receiver.types == ["ready"])
        mask = {"paths": ["endpoint_url"]}
        await ask(reader, "DeveloperService/UpdateProfile", integration={"endpoint_url": URL}, update_mask=mask)
        assert (await ask(reader, "WebhookService/GetEndpoint")).endpoint.state == 1
        assert receiver.types == ["ready"]


async def test_blocked_developers_can_only_read(start_hub: StartHub) -> None:
    """A developer on the blocklist reads, and no more."""
    hub = await start_hub(**ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving() as receiver:
        await create(reader, receiver)
        await ask(hub.admin, "AdminService/BlockDeveloper", user_id=OWNER, source="x", reason="x")
        for method in set(DEVELOPERS) - {"GetEndpoint", "ListEndpoints", "ListAttempts"}:
            error = await fails(ask(reader, f"WebhookService/{method}", **request(method)))
            assert reason_of(error) == "DEVELOPER_BLOCKED", method
        assert (await ask(reader, "WebhookService/GetEndpoint")).endpoint.url == receiver.url
        assert receiver.requests == 0


async def test_concurrent_creations_make_one_endpoint(hub: RunningHub) -> None:
    """Two calls that create the same endpoint at a time: one is answered, the other refused."""
    _, reader = await hub.register("TICKET_CREATED")

    async def attempt(caller: Caller) -> str:
        try:
            return str((await ask(caller, "WebhookService/CreateEndpoint", endpoint={"url": URL})).secret)
        except Exception as error:  # noqa: BLE001  its reason is what counts
            return reason_of(error)  # type: ignore[arg-type]

    results = await asyncio.gather(*(attempt(reader) for _ in range(4)))
    assert sorted(results)[:3] == ["ENDPOINT_EXISTS"] * 3

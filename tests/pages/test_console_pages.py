"""The console in a real browser, on a real hub: what an admin does with it, and what must not be possible."""

import re

import pytest
from aiohttp import web
from tickets.hub.v1.admin_service_pb2 import CreateServiceKeyRequest, ListAuditEntriesRequest, RevokeKeyRequest
from tickets.hub.v1.permissions_pb2 import ROLE_ADMIN

from hub.control.audit import encode_change
from hub.control.transactions import COMMAND_LINE
from hub.endpoint_model import EndpointRecord, EndpointState
from hub.model import Entry, Kind
from hub.state import ENDPOINT
from tests.support.browser import DESKTOP, PHONE, Open, Watched
from tests.support.calls import ask, reason_of, set_scopes
from tests.support.events import ticket
from tests.support.hubs import RunningHub, StartHub, emit
from tests.support.listings import LONG, NAMES, apply, install, multiply

VIEWS = ("Overview", "Applications", "Integrations", "Findings", "Audit trail")
LEFT_BEHIND = """async () => JSON.stringify([
    {...localStorage}, {...sessionStorage}, document.cookie, location.href, history.state,
    (await indexedDB.databases()), (await caches.keys()),
    [...document.querySelectorAll("input")].map(input => input.value), document.documentElement.outerHTML,
])"""
ENDPOINTS = ".tiles > div:has(dt:text-is('Endpoints'))"
RATE = ".tiles > div:first-child dd:nth-of-type(1)"


async def sign_in(watched: Watched, key: str) -> None:
    """Show a key."""
    await watched.page.fill("#key", key)
    await watched.page.press("#key", "Enter")


async def entered(
    open_page: Open, url: str, key: str, theme: str = "light", size: tuple[int, int] = DESKTOP
) -> Watched:
    """A console that is open."""
    watched = await open_page(url, theme=theme, size=size)
    await sign_in(watched, key)
    await watched.page.wait_for_selector(".tiles")
    return watched


async def view(watched: Watched, name: str) -> None:
    """Go to a view, and wait until it is there."""
    await watched.page.click(f"nav >> text={name}")
    await watched.page.wait_for_selector(f"h1:has-text('{name}')", state="attached")


async def test_an_admin_decides_an_application(hub: RunningHub, console_url: str, open_page: Open) -> None:
    """The chosen scope is granted with the reason; the audit trail of the page, and the hub's, have it."""
    one = await apply(hub, "TICKET_CREATED", "TICKET_STATS", display_name="Shiftboard")
    watched = await entered(open_page, console_url, hub.admin.key)
    await view(watched, "Applications")
    card = watched.page.locator(f"article[data-id='{one}']")
    boxes = card.locator("input[type=checkbox]")
    assert await boxes.count() == 2
    assert await card.locator("text=Grant the chosen scopes").is_disabled()  # nothing would mean everything
    await boxes.nth(0).check()
    await card.locator("textarea").fill("Counting is fine.")
    await card.locator("text=Grant the chosen scopes").click()
    await watched.page.wait_for_selector("text=Nothing waits for a decision.")
    record = hub.hub.registry.integration(one).record
    assert [grant.scope for grant in record.grants] == [1]
    await view(watched, "Audit trail")
    first = watched.page.locator("tbody tr").first
    assert "ApproveIntegration" in await first.inner_text()
    assert "Counting is fine." in await first.inner_text()
    trail = await hub.admin.call("AdminService/ListAuditEntries", ListAuditEntriesRequest(integration_id=one))
    assert (trail.entries[0].reason, trail.entries[0].actor.key_name) == ("Counting is fine.", "first admin key")
    await watched.require_quiet()


async def test_an_application_is_rejected_with_a_reason(hub: RunningHub, console_url: str, open_page: Open) -> None:
    """Without a reason nothing happens."""
    one = await apply(hub, "TICKET_CREATED")
    watched = await entered(open_page, console_url, hub.admin.key)
    await view(watched, "Applications")
    await watched.page.click("text=Reject the application")
    assert hub.hub.registry.integration(one).record.state.name == "PENDING"
    await watched.page.fill("article textarea", "No documentation.")
    await watched.page.click("text=Reject the application")
    await watched.page.wait_for_selector("text=Nothing waits for a decision.")
    record = hub.hub.registry.integration(one).record
    assert (record.state.name, record.state_reason) == ("REJECTED", "No documentation.")


async def test_an_integration_is_suspended_and_resumed(hub: RunningHub, console_url: str, open_page: Open) -> None:
    """With a reason: without one nothing happens. Its stream ends, and its row says what was done."""
    one, reader = await hub.register("TICKET_CREATED", display_name="Shiftboard")
    await hub.register("TICKET_CREATED", display_name="Another")
    stream = await reader.subscribe()
    watched = await entered(open_page, console_url, hub.admin.key)
    await view(watched, "Integrations")
    await watched.page.click("summary:has-text('Shiftboard')")
    await watched.page.click("details[open] >> text=Suspend")
    assert hub.hub.registry.integration(one.integration_id).record.state.name == "ACTIVE"
    await watched.page.fill("details[open] textarea", "It answers nobody.")
    await watched.page.click("details[open] >> text=Suspend")
    await watched.page.wait_for_selector("text=It is suspended")
    assert reason_of(await stream.ending()) == "INTEGRATION_SUSPENDED"
    record = hub.hub.registry.integration(one.integration_id).record
    assert (record.state.name, record.state_reason) == ("SUSPENDED", "It answers nobody.")
    assert "suspended" in await watched.page.inner_text("tr:has-text('Shiftboard')")
    assert await watched.page.evaluate("document.activeElement.textContent") == "Shiftboard"
    await watched.page.click("details[open] >> text=Resume")
    await watched.page.wait_for_selector("text=It is active again")
    assert hub.hub.registry.integration(one.integration_id).record.state.name == "ACTIVE"
    trail = await ask(hub.admin, "AdminService/ListAuditEntries", integration_id=one.integration_id)
    assert [entry.method.split("/")[1] for entry in trail.entries[:2]] == ["ResumeIntegration", "SuspendIntegration"]
    await watched.require_quiet()


async def test_a_change_by_another_admin_is_not_overwritten(hub: RunningHub, console_url: str, open_page: Open) -> None:
    """The page says that it was changed; nothing is suspended."""
    one, _ = await hub.register("TICKET_CREATED", display_name="Shiftboard")
    watched = await entered(open_page, console_url, hub.admin.key)
    await view(watched, "Integrations")
    await set_scopes(hub, one, "TICKET_STATS")
    await watched.page.click("summary:has-text('Shiftboard')")
    await watched.page.fill("details[open] textarea", "It answers nobody.")
    await watched.page.click("details[open] >> text=Suspend")
    await watched.page.wait_for_selector("text=It was changed since you read it")
    assert hub.hub.registry.integration(one.integration_id).record.state.name == "ACTIVE"


async def test_findings_lead_to_their_integrations(hub: RunningHub, console_url: str, open_page: Open) -> None:
    """A server that agreed to less than is granted now is listed; its integration is one click away."""
    one, _ = await hub.register("TICKET_CREATED", display_name="Shiftboard")
    await hub.register("TICKET_CREATED", display_name="Another")
    await install(hub, one.integration_id, 51)
    await set_scopes(hub, one, "TICKET_CREATED", "TICKET_STATS")
    watched = await entered(open_page, console_url, hub.admin.key)
    await view(watched, "Findings")
    row = watched.page.locator("tbody tr:has-text('A server has to agree again')")
    assert await row.count() == 1
    text = await row.inner_text()
    assert "Ticket statistics" in text
    assert "server 51" in text
    await row.locator("text=Shiftboard").click()
    await watched.page.wait_for_selector("details[open] >> text=Suspend")
    assert await watched.page.locator("tbody tr").count() == 1
    await watched.require_quiet()


async def test_long_lists_are_read_page_by_page(hub: RunningHub, console_url: str, open_page: Open) -> None:
    """Each integration once; what follows is refused with a sentence while the hub is away."""
    one, _ = await hub.register("TICKET_CREATED", display_name="Shiftboard")
    await multiply(hub, one.integration_id, 119)
    watched = await entered(open_page, console_url, hub.admin.key)
    await view(watched, "Integrations")
    for count in 100, 120:
        await watched.page.click("text=Show more")
        await watched.page.wait_for_selector(f"tbody tr:nth-child({count}):last-child")
    names = await watched.page.locator("summary").all_inner_texts()
    assert len(set(names)) == 120
    await watched.page.wait_for_selector("text=Show more", state="hidden")
    await watched.require_quiet()
    await view(watched, "Audit trail")
    await hub.close()
    await watched.page.click("text=Show more")
    await watched.page.wait_for_selector(".list >> text=The hub does not answer.")


async def test_failing_endpoints_are_highlighted(hub: RunningHub, console_url: str, open_page: Open) -> None:
    """In words beside the colour."""
    one, _ = await hub.register("TICKET_CREATED")
    watched = await entered(open_page, console_url, hub.admin.key)
    await watched.page.wait_for_selector(f"{ENDPOINTS} >> text=none is registered")
    for state, shown in (EndpointState.PAUSED, "1 paused"), (EndpointState.FAILING, "1 failing"):
        record = EndpointRecord(one.integration_id, "only", "https://hooks.example/in", 1, 1, state)
        body = encode_change(COMMAND_LINE, None, record, "")
        await hub.hub.log.append([Entry(Kind.STATE, 1, body, key=ENDPOINT.key(one.integration_id, "only"))])
        await watched.page.wait_for_selector(f"{ENDPOINTS} >> text={shown}")
    assert "bad" in str(await watched.page.locator(f"{ENDPOINTS} >> dd").first.get_attribute("class"))


async def test_figures_update_without_a_reload(hub: RunningHub, console_url: str, open_page: Open) -> None:
    """Events of the bot move the rate, the chart and the readers, without a reload."""
    _, reader = await hub.register("TICKET_CREATED", display_name="Shiftboard")
    watched = await entered(open_page, console_url, hub.admin.key)
    assert await watched.page.locator(RATE).first.inner_text() == "0.0"
    await reader.subscribe()
    await emit(hub, [f"e{number}" for number in range(50)], ticket)
    await watched.page.wait_for_selector(f"{RATE}:not(:text-is('0.0'))")
    await watched.page.wait_for_selector("text=stream open")
    label = await watched.page.locator("svg[role=img]").first.get_attribute("aria-label")
    assert label is not None
    assert not label.startswith("Events in: 0.0")
    await watched.require_quiet()


async def test_the_key_is_only_in_memory(hub: RunningHub, console_url: str, open_page: Open) -> None:
    """Not in a storage, a cookie, an address, a field, the document; and a reload forgets it."""
    watched = await open_page(console_url)
    asked: list[str] = []
    watched.page.on("request", lambda request: asked.append(f"{request.url} {request.headers.get('cookie', '')}"))
    await sign_in(watched, hub.admin.key)
    for name in VIEWS:
        await view(watched, name)
        assert hub.admin.key not in await watched.page.evaluate(LEFT_BEHIND)
    assert [one for one in asked if hub.admin.key in one] == []
    assert await watched.page.context.cookies() == []
    await watched.page.reload()
    assert await watched.page.is_visible("#sign-in")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_every_view_is_accessible_in_both_themes(
    hub: RunningHub, console_url: str, open_page: Open, theme: str, size: tuple[int, int]
) -> None:
    """The door, and each view with something to show."""
    _, reader = await hub.register("TICKET_CREATED", "TICKET_STATS")
    await reader.subscribe()
    await apply(hub, "MEMBER_VERIFIED_IDENTITY")
    watched = await open_page(console_url, theme=theme, size=size)
    await watched.require_accessible()
    await sign_in(watched, hub.admin.key)
    await watched.page.wait_for_selector("text=stream open")
    for name in VIEWS:
        await view(watched, name)
        for summary in await watched.page.locator("summary").all():
            await summary.click()
        await watched.require_accessible()
    await watched.require_quiet()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_texts_of_users_are_escaped(
    hub: RunningHub, console_url: str, open_page: Open, name: str, size: tuple[int, int]
) -> None:
    """In every view: HTML, letters that run from right to left, words without an end."""
    integration, reader = await hub.register("TICKET_CREATED", display_name=name, description=f"{name} {LONG}"[:1_000])
    await reader.subscribe(subscription_id="s" * 60)
    await install(hub, integration.integration_id)
    await set_scopes(hub, integration, "TICKET_CREATED", "TICKET_STATS")  # the server did not agree: a finding
    await apply(hub, "TICKET_CREATED", display_name=name, description=LONG)
    watched = await entered(open_page, console_url, hub.admin.key, size=size)
    await watched.page.wait_for_selector(".lag")
    for one in VIEWS:
        await view(watched, one)
        for summary in await watched.page.locator("summary").all():
            await summary.click()
        assert name in (await watched.page.inner_text("#view")).replace("\u00a0", " ")
        assert await watched.page.locator("#view img, #view script, #view b").count() == 0
        await watched.require_quiet()
    assert integration.integration_id in await watched.page.inner_text("#view")


async def test_a_key_that_is_revoked_ends_the_session(hub: RunningHub, console_url: str, open_page: Open) -> None:
    """Within seconds the door is shown with the reason, and nothing is left of what was read."""
    request = CreateServiceKeyRequest(role=ROLE_ADMIN, display_name="second")
    made = (await hub.admin.call("AdminService/CreateServiceKey", request)).key
    await hub.register("TICKET_CREATED", display_name="Shiftboard")
    watched = await entered(open_page, console_url, made.secret)
    await view(watched, "Integrations")
    await watched.page.wait_for_selector("text=Shiftboard")
    await hub.admin.call("AdminService/RevokeKey", RevokeKeyRequest(key_id=made.key_id, reason="left the team"))
    await watched.page.wait_for_selector("#sign-in")
    assert "revoked" in (await watched.page.inner_text("#refusal"))
    assert "Shiftboard" not in await watched.page.content()


async def test_wrong_keys_are_refused_then_throttled(hub: RunningHub, console_url: str, open_page: Open) -> None:
    """Ten times and more with the reason, then with how to go on; the right key still opens."""
    watched = await open_page(console_url)
    wrong = re.sub(".$", "", hub.admin.key)
    told: list[str] = []
    while not told or "Too many failed authentications from your address" not in told[-1]:
        assert len(told) < 50
        await sign_in(watched, wrong)
        await watched.page.wait_for_selector("#refusal:not(:empty)")
        told.append(await watched.page.inner_text("#refusal"))
        await watched.page.evaluate("document.getElementById('refusal').textContent = ''")
    assert len(told) > 10  # one more each six seconds, where the machine is slow
    await sign_in(watched, hub.bot.key)
    await watched.page.wait_for_selector("text=This key is not an admin")
    await sign_in(watched, hub.admin.key)
    await watched.page.wait_for_selector(".tiles")


async def test_an_open_console_survives_a_restart_of_the_hub(
    start_hub: StartHub, hub: RunningHub, console_url: str, open_page: Open
) -> None:
    """The page says that the hub is away, and continues by itself with the same key."""
    watched = await entered(open_page, console_url, hub.admin.key)
    port = hub.hub.http.port
    await hub.close()
    await watched.page.wait_for_selector("#state:has-text('Away')")
    await start_hub(http_listen=f"127.0.0.1:{port}")
    await watched.page.wait_for_selector("#state:has-text('Live')")
    assert await watched.page.is_visible(".tiles")


async def test_pages_of_other_sites_can_neither_read_nor_frame_the_console(
    hub: RunningHub, console_url: str, open_page: Open
) -> None:
    """Not even with a valid key in its hands."""

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text=f"<h1>Evil</h1><iframe src='{console_url}'></iframe>", content_type="text/html")

    application = web.Application()
    application.add_routes([web.get("/", page)])
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        [(host, port)] = [address[:2] for address in runner.addresses]
        watched = await open_page(f"http://{host}:{port}/")
        fetched = await watched.page.evaluate(
            "([url, key]) => fetch(url, {method: 'POST', body: '{}', headers: {'Authorization': `Bearer ${key}`, "
            "'Content-Type': 'application/json'}}).then(() => 'read', () => 'refused')",
            [f"{console_url}/api/AdminService/ListIntegrations", hub.admin.key],
        )
        assert fetched == "refused"
        frame = watched.page.frames[1]
        assert "Admin key" not in await frame.content()
        assert watched.errors  # the browser says why
    finally:
        await runner.cleanup()


async def test_without_scripts_the_console_explains_itself(hub: RunningHub, console_url: str, open_page: Open) -> None:
    """The page says what it needs, and Enter does not put the key into the URL."""
    assert hub.hub.http.port
    watched = await open_page(console_url, scripts=False)
    assert "switch it on" in await watched.page.inner_text("body")
    await watched.page.fill("#key", "tkt_admin_x")
    await watched.page.keyboard.press("Enter")
    await watched.page.wait_for_timeout(200)  # what must not come has no sign
    assert watched.page.url == console_url

"""The directory in a real browser: with and without scripts, in both themes, with whatever people write."""

import pytest
from tickets.hub.v1.admin_service_pb2 import SetScopesRequest

from tests.support.browser import DESKTOP, PHONE, Open
from tests.support.hubs import RunningHub, scope_requests
from tests.support.listings import HTML, LONG, NAMES, install, multiply


async def test_the_directory_shows_what_an_integration_receives(
    hub: RunningHub, directory_url: str, open_page: Open
) -> None:
    """From the list to its page: fields, level, servers, and every change of its scopes."""
    one, _ = await hub.register("TICKET_CREATED", "TICKET_STATS", display_name="Shiftboard")
    await install(hub, one.integration_id)
    request = SetScopesRequest(integration_id=one.integration_id, scopes=scope_requests("TICKET_CREATED"))
    await hub.admin.call("AdminService/SetScopes", request)
    watched = await open_page(directory_url)
    await watched.page.fill("#q", "shiftBOARD")
    await watched.page.click("text=Search")
    await watched.page.click("text=Shiftboard")
    text = await watched.page.inner_text("main")
    assert "ticket_created.creator_user_id" in text
    assert "message_count" not in text
    assert "Taken away: Ticket statistics" in text
    assert "Given: Ticket statistics" in text
    assert "1 has installed it" in text
    await watched.require_quiet()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_every_page_is_accessible_in_both_themes(
    hub: RunningHub, directory_url: str, open_page: Open, theme: str, size: tuple[int, int]
) -> None:
    """The list, one integration, a search without results, and a missing page."""
    one, _ = await hub.register("MEMBER_VERIFIED", "MEMBER_VERIFIED_IDENTITY", display_name=HTML)
    await multiply(hub, one.integration_id, 40)
    for path in ("/", "/?page=2", f"/integrations/{one.integration_id}", "/?q=nothing", "/nowhere"):
        watched = await open_page(directory_url + path, theme=theme, size=size)
        await watched.require_accessible()
        if path != "/nowhere":  # of which the browser says that it is not there
            await watched.require_quiet()
        await watched.page.close()


async def test_the_directory_works_without_scripts(hub: RunningHub, directory_url: str, open_page: Open) -> None:
    """Word for word, page by page, and the search works."""
    one, _ = await hub.register("DROP_CLAIMED", display_name="Drop Ledger")
    for path in ("/", f"/integrations/{one.integration_id}", "/?q=ledger&scope=drop_claimed"):
        texts = []
        for scripts in (True, False):
            watched = await open_page(directory_url + path, scripts=scripts)
            texts.append(await watched.page.inner_text("body"))
            assert await watched.page.locator("script").count() == 0
        assert texts[0] == texts[1]
        assert "Drop Ledger" in texts[0]
    without = await open_page(directory_url, scripts=False)
    await without.page.fill("#q", "no such thing")
    await without.page.click("text=Search")
    assert "0 integrations found" in await without.page.inner_text("main")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
async def test_texts_of_users_are_escaped(
    hub: RunningHub, directory_url: str, open_page: Open, name: str, size: tuple[int, int]
) -> None:
    """HTML, letters that run from right to left, and words without an end are shown as they are, within the page."""
    one, _ = await hub.register("TICKET_CREATED", display_name=name, description=f"{name} {LONG}"[:1_000])
    watched = await open_page(directory_url, size=size)
    assert await watched.page.inner_text("h2") == name
    await watched.require_quiet()
    await watched.page.click("h2 a")
    assert await watched.page.inner_text("h1") == name
    assert one.integration_id in watched.page.url
    assert await watched.page.locator("main img, main script, main b").count() == 0
    await watched.require_quiet()


async def test_the_directory_works_with_the_keyboard(hub: RunningHub, directory_url: str, open_page: Open) -> None:
    """The first key leads past the heading; each integration is one stop."""
    await hub.register("TICKET_CREATED", display_name="Shiftboard")
    page = (await open_page(directory_url)).page
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.textContent") == "To the content"
    for _ in range(10):
        await page.keyboard.press("Tab")
        if await page.evaluate("document.activeElement.textContent") == "Shiftboard":
            break
    await page.keyboard.press("Enter")
    await page.wait_for_selector("h1:has-text('Shiftboard')")

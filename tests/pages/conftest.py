"""Chromium and a hub with pages. Without Chromium or playwright the tests are skipped; where `CI` is set they fail."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import pytest

from tests.support.browser import DESKTOP, VIOLATIONS, Open, Watched
from tests.support.hubs import RunningHub, StartHub
from tests.support.programs import needs, without

if TYPE_CHECKING:
    from playwright.async_api import Browser

LISTEN = "127.0.0.1:0"


@pytest.fixture
async def browser() -> "AsyncIterator[Browser]":
    """The system's Chromium."""
    program = needs("chromium")
    try:
        from playwright.async_api import async_playwright  # noqa: PLC0415  only `make pages-test` brings it
    except ImportError:
        without("playwright is not installed: 'make pages-test' brings it")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])  # CI may run as root
        yield browser
        await browser.close()


@pytest.fixture
def open_page(browser: "Browser") -> Open:
    """Opens an address: `open_page(url, theme="dark", size=PHONE, scripts=False)`."""

    async def opened(
        url: str, *, theme: str = "light", size: tuple[int, int] = DESKTOP, scripts: bool = True
    ) -> Watched:
        context = await browser.new_context(
            color_scheme="dark" if theme == "dark" else "light",
            viewport={"width": size[0], "height": size[1]},
            java_script_enabled=scripts,
        )
        context.set_default_timeout(60_000)
        watched = Watched(await context.new_page())
        await watched.page.add_init_script(VIOLATIONS)
        await watched.page.goto(url)
        return watched

    return opened


@pytest.fixture
async def hub(start_hub: StartHub) -> RunningHub:
    """A hub with both HTTP listeners on free ports."""
    return await start_hub(http_listen=LISTEN, directory_listen=LISTEN, max_changes=100_000)


@pytest.fixture
def console_url(hub: RunningHub) -> str:
    """Where its console is."""
    return f"http://127.0.0.1:{hub.hub.http.port}/console"


@pytest.fixture
def directory_url(hub: RunningHub) -> str:
    """Where its directory is."""
    return f"http://127.0.0.1:{hub.hub.directory.port}"

"""Take the pictures of the directory and the console: docs/pictures/<page>-<width>-<theme>.png, from a real hub.

make page-pictures        # needs chromium, and the packages of the group `pages`

The hub, its integrations and its events are made up here, on loopback and in a temporary directory.
"""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from playwright.async_api import Browser, Page, async_playwright
from tickets.hub.v1 import admin_service_pb2 as admin_pb2
from tickets.hub.v1 import admin_service_pb2_grpc, directory_service_pb2_grpc, event_service_pb2_grpc
from tickets.hub.v1.directory_service_pb2 import InstallIntegrationRequest, SubmitApplicationRequest
from tickets.hub.v1.event_pb2 import Event, MemberVerified, TicketCreated
from tickets.hub.v1.event_service_pb2 import EmitEventRequest, SubscribeRequest
from tickets.hub.v1.integration_pb2 import GUILD_ACCESS_ALL, GUILD_ACCESS_INSTALLED, ScopeRequest
from tickets.hub.v1.permissions_pb2 import Scope

from hub import config, logs
from hub.app import Hub
from hub.model import Role

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
WIDTHS = {"desktop": (1180, 1000), "phone": (390, 844)}
THEMES = ("light", "dark")
LIVE = 90.0
"""Seconds of events before the console's picture."""


class Made(NamedTuple):
    """An integration of the picture: its name, what it does, its scopes and why, its servers (None: every one)."""

    name: str
    text: str
    scopes: dict[str, str]
    guilds: int | None


INTEGRATIONS = (
    Made(
        "Quiet Hours",
        "Holds back the pings of new tickets while a team sleeps, and lists them in the morning.",
        {"ticket_created": "A new ticket may have to wait until the morning."},
        214,
    ),
    Made(
        "Shiftboard",
        "Shows who answered what: opening times, first answers and closing times of tickets, week by week.",
        {
            "ticket_created": "The clock of a ticket starts here.",
            "ticket_stats": "Longer conversations weigh more in the week's figures.",
        },
        1_187,
    ),
    Made(
        "Gatekeeper",
        "Gives verified members the roles that a server has chosen, and writes a line to its log channel.",
        {
            "member_verified": "Something has to start the work.",
            "member_verified_identity": "A role can be given only to somebody who is known.",
        },
        392,
    ),
    Made(
        "Archive Courier",
        "Copies each new transcript to the storage that a server has chosen. Nothing is kept on the way.",
        {"transcript_created": "A transcript can be copied once it is there."},
        76,
    ),
    Made(
        "Drop Ledger",
        "A public table of what drops gave away, by server and by day.",
        {"drop_claimed": "Each claim is a row of the table."},
        None,
    ),
)

APPLICATIONS = (
    Made(
        "Verification Digest",
        "A weekly letter to server owners: how many members were verified, and when.",
        {
            "member_verified": "The letter counts verifications.",
            "member_verified_identity": "To leave out those who were verified twice.",
        },
        0,
    ),
)


class Callers(NamedTuple):
    """Stubs, and the metadata of the two first keys."""

    admin: Any
    directory: Any
    events: Any
    as_admin: tuple[tuple[str, str], ...]
    as_bot: tuple[tuple[str, str], ...]


@contextlib.asynccontextmanager
async def scene() -> AsyncIterator[tuple[Hub, Callers, str]]:
    """A hub with integrations, and the admin's key."""
    logs.configure("error", "json")
    with tempfile.TemporaryDirectory() as folder:
        flags = {"listen": "127.0.0.1:0", "http_listen": "127.0.0.1:0", "directory_listen": "127.0.0.1:0"}
        hub = await Hub.start(config.load({"data_dir": Path(folder, "data"), **flags}))
        assert hub.first_keys is not None  # noqa: S101  the store is new
        key = hub.first_keys[Role.ADMIN]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{hub.port}") as channel:
            callers = Callers(
                admin_service_pb2_grpc.AdminServiceStub(channel),
                directory_service_pb2_grpc.DirectoryServiceStub(channel),
                event_service_pb2_grpc.EventServiceStub(channel),
                bearer(key),
                bearer(hub.first_keys[Role.BOT]),
            )
            try:
                yield hub, callers, key
            finally:
                await hub.stop()


def bearer(key: str) -> tuple[tuple[str, str], ...]:
    """The metadata that show a key."""
    return (("authorization", f"Bearer {key}"),)


def profile(made: Made, number: int) -> dict[str, Any]:
    """What RegisterIntegration and SubmitApplication have in common."""
    host = made.name.lower().replace(" ", "-") + ".example"
    return {
        "display_name": made.name,
        "description": made.text,
        "owner_user_id": str(80351110224678912 + number),
        "documentation_url": f"https://{host}/setup",
        "support_url": f"https://{host}/help",
        "guild_access": GUILD_ACCESS_ALL if made.guilds is None else GUILD_ACCESS_INSTALLED,
        "scopes": requests(made.scopes),
    }


def requests(scopes: dict[str, str]) -> list[ScopeRequest]:
    """Scopes asked for."""
    return [ScopeRequest(scope=Scope.Value(f"SCOPE_{name.upper()}"), justification=why) for name, why in scopes.items()]


async def populate(hub: Hub, callers: Callers) -> list[asyncio.Task[None]]:
    """Register, install, change some scopes, apply; returns readers of the integrations."""
    readers = []
    for number, made in enumerate(INTEGRATIONS):
        request = admin_pb2.RegisterIntegrationRequest(**profile(made, number))
        reply = await callers.admin.RegisterIntegration(request, metadata=callers.as_admin)
        one = reply.integration.integration_id
        await asyncio.gather(*(install(callers, one, guild) for guild in range(made.guilds or 0)))
        if made.name == "Gatekeeper":
            await change_scopes(callers, one, made)
        if made.name != "Archive Courier":
            readers.append(asyncio.create_task(read(callers, reply.key.secret)))
        else:
            async with asyncio.timeout(10):
                await read(callers, reply.key.secret, frames=1)
    for number, made in enumerate(APPLICATIONS):
        application = SubmitApplicationRequest(**profile(made, 50 + number), rules_accepted=True)
        await callers.directory.SubmitApplication(application, metadata=callers.as_bot)
    del hub
    return readers


async def install(callers: Callers, one: str, guild: int) -> None:
    """Install an integration in a server, by an admin of that."""
    request = InstallIntegrationRequest(integration_id=one, guild_id=str(10**17 + guild), acting_user_id=str(1 + guild))
    await callers.directory.InstallIntegration(request, metadata=callers.as_bot)


async def change_scopes(callers: Callers, one: str, made: Made) -> None:
    """Take a scope away, and give it back; two servers that install it in between have to agree again."""
    first = dict(list(made.scopes.items())[:1])
    await set_scopes(callers, one, first, "The identity is not needed for a line in a log.")
    for guild in range(2):
        await install(callers, one, 10**6 + guild)
    await set_scopes(callers, one, made.scopes, "It gives roles now.")


async def set_scopes(callers: Callers, one: str, scopes: dict[str, str], why: str) -> None:
    """Grant exactly these."""
    request = admin_pb2.SetScopesRequest(integration_id=one, scopes=requests(scopes), reason=why)
    await callers.admin.SetScopes(request, metadata=callers.as_admin)


async def read(callers: Callers, key: str, frames: int = 0) -> None:
    """Read an integration's stream; `frames`: end after so many."""
    call = callers.events.Subscribe(SubscribeRequest(), metadata=bearer(key))
    count = 0
    async for _ in call:
        count += 1
        if count == frames:
            return


async def emit(callers: Callers, seconds: float) -> None:
    """A bot's day in a minute: more and fewer events, in waves."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    number = 0
    while loop.time() < end:
        for _ in range(1 + (number // 40) % 4):
            number += 1
            guild = str(10**17 + number % 70)
            payload: dict[str, Any] = (
                {"ticket_created": TicketCreated(creator_user_id="80351110224678913")}
                if number % 3
                else {"member_verified": MemberVerified(user_id="80351110224678914")}
            )
            event = EmitEventRequest(event=Event(guild_id=guild, **payload))
            await callers.events.EmitEvent(event, metadata=callers.as_bot)
        await asyncio.sleep(0.05)


async def take(browser: Browser, hub: Hub, callers: Callers, key: str) -> None:
    """Take every picture."""
    consoles = {}
    for theme in THEMES:
        for width, size in WIDTHS.items():
            page = await opened(browser, theme, size)
            await page.goto(f"http://127.0.0.1:{hub.http.port}/console")
            await page.fill("#key", key)
            await page.press("#key", "Enter")
            await page.wait_for_selector(".tiles")
            consoles[theme, width] = page
    emitting = asyncio.create_task(emit(callers, 2 * LIVE))
    await asyncio.sleep(LIVE)
    for (theme, width), page in consoles.items():
        await picture(page, "console", width, theme)
        await page.click("text=Applications")
        await page.wait_for_selector("article")
        await page.check("article input[type=checkbox] >> nth=0")
        await page.fill("article textarea", "The letter counts; it names nobody.")
        await picture(page, "console-applications", width, theme)
        await page.click("text=Integrations")
        await page.click("summary:has-text('Shiftboard')")
        await page.fill("details[open] textarea", "Its support does not answer.")
        await picture(page, "console-integrations", width, theme)
        await page.click("text=Findings")
        await page.wait_for_selector("text=A server has to agree again")
        await picture(page, "console-findings", width, theme)
        await page.close()
        await take_directory(await opened(browser, theme, WIDTHS[width]), hub, width, theme)
    emitting.cancel()


async def take_directory(page: Page, hub: Hub, width: str, theme: str) -> None:
    """The list, and one integration."""
    await page.goto(f"http://127.0.0.1:{hub.directory.port}/")
    await picture(page, "directory", width, theme)
    await page.click("text=Gatekeeper")
    await page.wait_for_selector("h1:has-text('Gatekeeper')")
    await picture(page, "directory-integration", width, theme)
    await page.close()


async def opened(browser: Browser, theme: str, size: tuple[int, int]) -> Page:
    """A page of a width, in a theme."""
    context = await browser.new_context(
        color_scheme="dark" if theme == "dark" else "light", viewport={"width": size[0], "height": size[1]}
    )
    return await context.new_page()


async def picture(page: Page, name: str, width: str, theme: str) -> None:
    """One picture, of what a screen shows."""
    await page.screenshot(path=PICTURES / f"{name}-{width}-{theme}.png", animations="disabled")


async def main() -> None:
    """Make the scene, take the pictures."""
    program = shutil.which("chromium")
    if program is None:
        raise SystemExit("chromium is not installed")
    async with scene() as (hub, callers, key), async_playwright() as playwright:
        readers = await populate(hub, callers)
        browser = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        await take(browser, hub, callers, key)
        await browser.close()
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main())

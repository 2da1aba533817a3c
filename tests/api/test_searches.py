"""Searches and lists: matching of texts, sizes of pages, and their cost for other callers."""

import asyncio
import unicodedata
from collections.abc import Sequence
from typing import Any

import pytest
from google.protobuf.message import Message

from hub import config
from hub.api.scans import SLICE, Scans
from hub.clock import Clock
from hub.control.search import SearchTexts
from hub.errors import TooManySearches
from hub.logs import CALLER
from hub.model import Caller, IntegrationRecord, Role, State
from hub.permissions import SERVICES
from tests.support.calls import ask
from tests.support.hubs import REGISTRATION, FakeClock, RunningHub, StartHub, scope_requests

WRITTEN = {
    "composed": ("Caf\u00e9", "caf\u00e9"),
    "decomposed": ("Caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9")),
    "stored decomposed": (unicodedata.normalize("NFD", "Caf\u00e9"), "CAF\u00c9"),
    "full width": ("\uff2cedger", "ledger"),
    "searched in full width": ("Ledger", "\uff4c\uff45\uff44ger"),
    "sharp s": ("Stra\u00dfe", "STRASSE"),
    "ligature": ("O\ufb03ce", "office"),
    "half-width kana": ("\u30ac\u30a4\u30c9", "\uff76\uff9e\uff72\uff84\uff9e"),
    "Hangul letters": ("\ud55c\uad6d", unicodedata.normalize("NFD", "\ud55c\uad6d")),
    "final sigma": ("\u039f\u0394\u039f\u03a3", "\u03bf\u03b4\u03bf\u03c2"),
    "ZWNJ": ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "\u0645\u06cc\u062e\u0648\u0627\u0647\u0645"),
    "ZWNJ in the query": (
        "\u0645\u06cc\u062e\u0648\u0627\u0647\u0645",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    ),
    "soft hyphen": ("Led\u00adger", "ledger"),
    "superscript": ("x\u00b2", "X2"),
}


@pytest.mark.parametrize(("name", "query"), WRITTEN.values(), ids=WRITTEN)
async def test_a_search_ignores_case_composition_width_and_invisible_characters(
    hub: RunningHub, name: str, query: str
) -> None:
    """This holds for the directory and for admins."""
    fields: dict[str, Any] = REGISTRATION | {"display_name": name, "scopes": scope_requests("DROP_CLAIMED")}
    made = (await ask(hub.admin, "AdminService/RegisterIntegration", **fields)).integration
    await hub.register("DROP_CLAIMED")
    found = await ask(hub.bot, "DirectoryService/FindIntegrations", query=query)
    assert [one.integration_id for one in found.integrations] == [made.integration_id]
    for term in (query, f'"{query}"', f'state = ACTIVE AND "{query}"'):
        listed = await ask(hub.admin, "AdminService/ListIntegrations", filter=term)
        assert [one.integration_id for one in listed.integrations] == [made.integration_id]


LIMIT, TOKEN = 2_048, 200
TEXT = "\u65e5" * 1_000


async def fill(hub: RunningHub) -> None:
    """Some entries for every list, with texts as large as they may be."""
    for number in range(4):
        fields: dict[str, Any] = REGISTRATION | {
            "description": TEXT[:400],
            "scopes": scope_requests("DROP_CLAIMED", "TICKET_CREATED"),
        }
        made = (await ask(hub.admin, "AdminService/RegisterIntegration", **fields)).integration
        who = {"integration_id": made.integration_id, "acting_user_id": "7"}
        for guild in range(100, 140):
            await ask(hub.bot, "DirectoryService/InstallIntegration", guild_id=str(guild), agreed_scopes=[3], **who)
        block = {"user_id": str(900 + number), "source": TEXT[:90], "reason": TEXT[:400]}
        await ask(hub.admin, "AdminService/BlockDeveloper", **block)
        _, reader = await hub.register("TICKET_CREATED", display_name=f"Reader {number}")
        streams = [await reader.subscribe(latest={}, subscription_id=f"{index}" * 60) for index in range(1, 9)]
        for stream in streams:
            stream.call.cancel()


LISTS = {
    "AdminService/ListIntegrations": {},
    "DirectoryService/FindIntegrations": {},
    "DeveloperService/ListOwnIntegrations": {"acting_user_id": REGISTRATION["owner_user_id"]},
    "DirectoryService/ListInstallations": {},
    "AdminService/ListBlockedDevelopers": {},
    "AdminService/GetPrivilegeReport": {},
    "AdminService/ListSubscriptions": {},
    "AdminService/ListAuditEntries": {},
}
"""The methods whose reply has a next_page_token, but for these."""

SMALL = {"WebhookService/ListEndpoints"}
"""Lists that never fill a page: an integration has five endpoints at most."""

OF_ONE_SUBJECT = {
    *("PrivacyService/ListErasures", "PrivacyService/ListDisclosures", "PrivacyService/ExportSubject"),
    "DirectoryService/ListGuildIntegrations",
}
"""Lists about one user or guild: `tests/privacy/` and `tests/governance/test_guild_say.py` read them."""


async def pages(hub: RunningHub, method: str, **fields: Any) -> list[Message]:  # noqa: ANN401  of any request
    """All pages of a list."""
    caller = hub.admin if method.startswith("AdminService/") else hub.bot
    found, token = [], ""
    while True:
        page = await ask(caller, method, page_token=token, page_size=200, **fields)
        found.append(page)
        token = page.next_page_token
        if not token:
            return found


def names(several: Sequence[Any]) -> list[tuple[str, ...]]:
    """What stands on pages, in order, by all that names it."""
    field = next(field.name for field in several[0].DESCRIPTOR.fields if field.is_repeated)
    parts = ("integration_id", "subscription_id", "guild_id", "user_id", "request_id", "kind", "scopes", "changes")
    return [tuple(str(getattr(one, part, "")) for part in parts) for page in several for one in getattr(page, field)]


async def test_pages_of_every_list_have_a_largest_size(start_hub: StartHub) -> None:
    """Every list is cut into several pages below the limit, which together hold each entry once."""
    hub = await start_hub(max_page_bytes=LIMIT, max_changes=1_000, max_streams_per_integration=10, report_grace=0)
    await fill(hub)
    counts = {}
    for method, fields in LISTS.items():
        several = await pages(hub, method, **fields)
        assert [page for page in several if page.ByteSize() > LIMIT + TOKEN and len(names([page])) > 1] == [], method
        assert len(several) > 1, method
        found = names(several)
        assert len(set(found)) == len(found), method
        counts[method.partition("/")[2]] = len(found)
    assert counts["ListIntegrations"] == counts["FindIntegrations"] == counts["ListOwnIntegrations"] == 8
    assert (counts["ListInstallations"], counts["ListBlockedDevelopers"], counts["ListSubscriptions"]) == (160, 4, 32)
    assert counts["ListAuditEntries"] == 2 + 8 + 160 + 4
    assert counts["GetPrivilegeReport"] == 4 * 2 + 4 + 4 * 40


async def test_endpoints_count_towards_the_size_of_a_page(start_hub: StartHub) -> None:
    """The endpoints that ListOwnIntegrations adds do not exceed the limit, and each is on one page."""
    hub = await start_hub(max_page_bytes=LIMIT, max_changes=1_000)
    for number in range(4):
        made, reader = await hub.register("TICKET_CREATED", display_name=f"Reader {number}")
        for index in range(5):
            endpoint = {"endpoint_id": f"e{index}", "url": "https://hooks.example.com/"}
            await ask(reader, "WebhookService/CreateEndpoint", endpoint=endpoint)
            which = {"integration_id": made.integration_id, "endpoint_id": f"e{index}"}
            await ask(hub.admin, "WebhookService/DisableEndpoint", **which, reason=TEXT[:60])
    method = "DeveloperService/ListOwnIntegrations"
    several: list[Any] = await pages(hub, method, **LISTS[method])
    assert [page for page in several if page.ByteSize() > LIMIT + TOKEN and len(page.integrations) > 1] == []
    found = [(one.integration_id, one.endpoint_id) for page in several for one in page.endpoints]
    assert len(found) == len(set(found)) == 4 * 5
    assert len(names(several)) == 4


def test_every_paged_method_is_tested() -> None:
    """A method whose reply has a page token is listed above."""
    paged = {
        f"{service.name}/{method.name}"
        for service in SERVICES
        for method in service.methods
        if "next_page_token" in method.output_type.fields_by_name
    }
    assert paged == set(LISTS) | SMALL | OF_ONE_SUBJECT


def record(number: int, text: str = "x") -> IntegrationRecord:
    """An integration."""
    return IntegrationRecord(f"i{number}", text, text, "7", "", "", number, number, State.ACTIVE)


def test_the_folded_text_of_a_record_is_cached() -> None:
    """The same record gives the same object; another record has its own."""
    texts, one = SearchTexts(), record(1, "Caf\u00e9")
    assert texts.of(one) is texts.of(one)
    assert texts.of(record(1, "Other")) == "other\nother"


@pytest.fixture
def as_caller() -> Any:  # noqa: ANN401  a generator fixture
    """A call by some key is being served."""
    token = CALLER.set(Caller(Role.BOT, "key", "", "x", ""))
    yield
    CALLER.reset(token)


@pytest.mark.usefixtures("as_caller")
async def test_a_long_scan_yields_to_the_event_loop() -> None:
    """During a scan of 10,000 entries other tasks run after each slice."""
    numbers, turns, walked = list(range(10_000)), 0, 0

    async def others() -> None:
        nonlocal turns
        while walked < len(numbers):
            turns += 1
            await asyncio.sleep(0)

    waiting = asyncio.create_task(others())
    scans = Scans(config.load(), Clock())

    def following(after: int | None, limit: int) -> list[int]:
        return numbers[after or 0 : (after or 0) + limit]

    async for _ in scans.walk(following, lambda one: one + 1, None):
        walked += 1
    await waiting
    assert turns >= len(numbers) // SLICE - 1


@pytest.mark.usefixtures("as_caller")
async def test_a_used_up_search_budget_refills() -> None:
    """A key that has used up its budget is refused until the announced time has passed."""
    clock = FakeClock()
    scans = Scans(config.load({"max_scanned": 1_000}), clock)
    numbers = list(range(900))

    async def walk() -> int:
        def following(after: int | None, limit: int) -> list[int]:
            return numbers[after or 0 : (after or 0) + limit]

        return len([one async for one in scans.walk(following, lambda one: one + 1, None)])

    assert await walk() == 900
    with pytest.raises(TooManySearches) as refusal:
        await walk()
    assert refusal.value.retry_after is not None
    clock.monotonic_offset += 10
    assert await walk() == 900

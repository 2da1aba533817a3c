"""The public directory over plain HTTP: what it lists and what not, caching, its feed, its limits."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from google.protobuf.json_format import MessageToDict
from tickets.hub.v1.admin_service_pb2 import BlockDeveloperRequest, SetScopesRequest, SuspendIntegrationRequest
from tickets.hub.v1.directory_service_pb2 import GetDirectoryEntryRequest

from hub import config
from hub.errors import StartError
from hub.http.directory import pages, snapshot
from hub.http.directory.forgetting import HOUR
from hub.http.directory.pace import PIECE, REST, paced
from tests.operations.scraping import PATIENCE, Answer, get
from tests.support.calls import commit
from tests.support.hubs import REGISTRATION, FakeClock, RunningHub, StartHub, scope_requests
from tests.support.listings import HTML, RIGHT_TO_LEFT, apply, install, multiply
from tests.support.privacy import LONGER, USER, by, done, erase_user
from tests.support.processes import serving

ATOM = "{http://www.w3.org/2005/Atom}"


@pytest.fixture
async def hub(start_hub: StartHub, monkeypatch: pytest.MonkeyPatch) -> RunningHub:
    """A hub with a directory on a free port, which looks at its state at each request."""
    monkeypatch.setattr(snapshot, "MIN_AGE", 0)
    return await start_hub(directory_listen="127.0.0.1:0", max_changes=100_000)


async def read(hub: RunningHub, path: str, **headers: str) -> Answer:
    """A page of the directory."""
    return await get(hub.hub.directory.port, path, **headers)


async def set_scopes(hub: RunningHub, integration_id: str, *scopes: str) -> None:
    """Grant exactly these."""
    request = SetScopesRequest(integration_id=integration_id, scopes=scope_requests(*scopes))
    await hub.admin.call("AdminService/SetScopes", request)


async def test_the_directory_follows_the_grants(hub: RunningHub) -> None:
    """A revoked scope is gone at the next request, and listed among the changes; so is its return."""
    one, _ = await hub.register("TICKET_CREATED", "TICKET_STATS")
    path = f"/integrations/{one.integration_id}"
    assert "ticket_closed.message_count" in (await read(hub, path)).text
    await set_scopes(hub, one.integration_id, "TICKET_CREATED")
    page = (await read(hub, path)).text
    assert "ticket_closed.message_count" not in page
    assert "Taken away: Ticket statistics" in page
    await set_scopes(hub, one.integration_id, "TICKET_CREATED", "TICKET_STATS")
    content = json.loads((await read(hub, f"{path}.json")).text)
    changes = [(change["given"], change["taken"]) for change in content["changes"]]
    assert changes == [
        (["ticket_stats"], []),
        ([], ["ticket_stats"]),
        (["ticket_created", "ticket_stats"], []),
    ]


async def test_a_change_of_texts_is_no_change_of_scopes(hub: RunningHub) -> None:
    """Nor are the same scopes with other reasons."""
    one, _ = await hub.register("TICKET_CREATED")
    scopes = scope_requests("TICKET_CREATED")
    scopes[0].justification = "another reason"
    await hub.admin.call("AdminService/SetScopes", SetScopesRequest(integration_id=one.integration_id, scopes=scopes))
    content = json.loads((await read(hub, f"/integrations/{one.integration_id}.json")).text)
    assert len(content["changes"]) == 1


async def test_the_json_matches_the_contract(hub: RunningHub) -> None:
    """An entry is the DirectoryEntry of GetDirectoryEntry; keys, owners and reasons are in no page."""
    one, reader = await hub.register("MEMBER_VERIFIED", "MEMBER_VERIFIED_IDENTITY")
    await install(hub, one.integration_id)
    request = GetDirectoryEntryRequest(integration_id=one.integration_id)
    entry = (await hub.bot.call("DirectoryService/GetDirectoryEntry", request)).entry
    page = await read(hub, f"/integrations/{one.integration_id}.json")
    content = json.loads(page.text)["integration"]
    grants = content.pop("grants")
    assert content == MessageToDict(entry, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    assert [grant["level"] for grant in grants] == [1, 2]
    listed = json.loads((await read(hub, "/integrations.json")).text)
    assert listed["integrations"] == [{**content, "grants": grants}]
    private = (REGISTRATION["owner_user_id"], "for the tests", reader.key, hub.admin.key.split("_")[2])
    for path in ("/", "/feed.atom", "/integrations.json", f"/integrations/{one.integration_id}"):
        text = (await read(hub, path)).text
        assert [word for word in private if word in text] == []


async def test_the_directory_counts_confirmed_erasures(start_hub: StartHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """As counts, which change once an hour and name no user."""
    monkeypatch.setattr(snapshot, "MIN_AGE", 0)
    clock = FakeClock()
    hub = await start_hub(clock, directory_listen="127.0.0.1:0", write_deadline=1e9, retention=365 * 24 * 3_600)
    one, reader = await hub.register("TICKET_CREATED")
    path = f"/integrations/{one.integration_id}"

    async def counts(later: int = 0) -> list[int]:
        clock.wall_offset += later
        return list(json.loads((await read(hub, f"{path}.json")).text)["erasures"].values())

    for number, user in enumerate((USER, LONGER)):
        await hub.emit(by(user, f"t{number}"))
    stream = await reader.subscribe(earliest={})
    await stream.events(2)
    assert "Nobody whose events it received has asked that yet." in (await read(hub, path)).text
    await done(hub.bot, (await erase_user(hub, USER)).erasure_id)
    assert await counts() == [0, 0, 0]  # the hour is not over
    assert await counts(HOUR) == [0, 1, 0]
    while not (frame := await stream.frame()).HasField("erased"):
        pass
    await commit(reader, frame.cursor)
    stream.call.cancel()
    await done(hub.bot, (await erase_user(hub, LONGER)).erasure_id)
    assert await counts(HOUR) == [1, 1, 0]
    assert await counts(31 * 24 * HOUR) == [1, 0, 1]
    page = (await read(hub, path)).text
    assert '<dd class="bad">1</dd>' in page
    assert USER not in page


async def test_closed_integrations_are_404(hub: RunningHub) -> None:
    """Applications, suspended integrations and those of blocked developers answer like unknown ones."""
    waits = await apply(hub, "TICKET_CREATED", owner_user_id="1")
    suspended, _ = await hub.register("TICKET_CREATED", owner_user_id="2")
    blocked, _ = await hub.register("TICKET_CREATED", owner_user_id="3")
    ids = (waits, suspended.integration_id, blocked.integration_id)
    assert [(await read(hub, f"/integrations/{one}")).status for one in ids] == [404, 200, 200]
    await hub.admin.call(
        "AdminService/SuspendIntegration", SuspendIntegrationRequest(integration_id=ids[1], reason="why")
    )
    await hub.admin.call("AdminService/BlockDeveloper", BlockDeveloperRequest(user_id="3", source="us", reason="why"))
    answers = [await read(hub, f"/integrations/{one}") for one in (*ids, "x" * 12)]
    assert {(answer.status, answer.text) for answer in answers} == {(404, answers[0].text)}
    assert "0 integrations" in (await read(hub, "/")).text
    assert json.loads((await read(hub, "/integrations.json")).text)["total"] == 0
    assert ET.fromstring((await read(hub, "/feed.atom")).text).findall(f"{ATOM}entry") == []  # noqa: S314  our own


async def test_the_feed_is_valid_atom(hub: RunningHub) -> None:
    """The newest change first, each with an id that stays; texts are escaped."""
    one, _ = await hub.register("TICKET_CREATED", display_name=HTML)
    other, _ = await hub.register("TICKET_CREATED", "DROP_CLAIMED", display_name=RIGHT_TO_LEFT)
    await set_scopes(hub, one.integration_id, "MEMBER_VERIFIED")
    answers = [await read(hub, "/feed.atom") for _ in range(2)]
    assert answers[0].headers["Content-Type"].startswith("application/atom+xml")
    assert answers[0].text == answers[1].text
    feed = ET.fromstring(answers[0].text)  # noqa: S314  our own
    entries = feed.findall(f"{ATOM}entry")
    assert [entry.findtext(f"{ATOM}title") for entry in entries] == [
        f"{HTML}: given member_verified; taken away ticket_created",
        f"{RIGHT_TO_LEFT}: given drop_claimed, ticket_created",
        f"{HTML}: given ticket_created",
    ]
    assert len({entry.findtext(f"{ATOM}id") for entry in entries}) == 3
    assert feed.findtext(f"{ATOM}updated") == entries[0].findtext(f"{ATOM}updated")
    [link] = entries[1].findall(f"{ATOM}link")
    assert link.get("href") == f"/integrations/{other.integration_id}"


async def test_an_unchanged_page_is_304(hub: RunningHub) -> None:
    """By ETag; an event of the bot changes no page."""
    one, _ = await hub.register("TICKET_CREATED")
    paths = ("/", "/integrations.json", f"/integrations/{one.integration_id}", "/feed.atom", "/directory.css")
    for path, scope in zip(paths, ("TICKET_STATS", "DROP_CLAIMED") * 3, strict=False):
        first = await read(hub, path)
        assert first.headers["Cache-Control"] == "public, no-cache"
        again = await read(hub, path, If_None_Match=first.headers["ETag"])
        assert (again.status, again.text) == (304, "")
        if path != "/directory.css":
            await set_scopes(hub, one.integration_id, scope)
            assert (await read(hub, path, If_None_Match=first.headers["ETag"])).status == 200


async def test_every_answer_has_security_headers(hub: RunningHub) -> None:
    """No cookie, no script allowed, no frame; refusals too."""
    for path in ("/", "/nowhere", "/?page=0", "/feed.atom", "/integrations/none.json"):
        headers = (await read(hub, path)).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'self'")
        assert "script-src" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "Set-Cookie" not in headers
    assert (await read(hub, "/", Host="evil.example")).status == 421
    assert (await read(hub, "/console")).status == 404
    assert (await read(hub, "/metrics")).status == 404


@pytest.mark.parametrize(
    ("query", "status", "why"),
    [
        ("q=" + "x" * 101, 400, "at most 100 characters"),
        ("q=" + "x" * 2_000, 400, "at most 100 characters"),
        ("scope=everything", 400, "there is no such scope"),
        ("page=0", 400, "a page is a number"),
        ("page=-1", 400, "a page is a number"),
        ("page=%C2%B2", 400, "a page is a number"),
        ("page=2", 404, "the last page is page 1"),
        ("q=%00&page=99999999999999999999", 400, "a page is a number"),
    ],
)
async def test_errors_are_pages_for_people(hub: RunningHub, query: str, status: int, why: str) -> None:
    """In a page of its own, for people."""
    answer = await read(hub, f"/?{query}")
    assert (answer.status, answer.headers["Content-Type"]) == (status, "text/html; charset=utf-8")
    assert why.lower() in answer.text.lower()


async def test_ten_thousand_integrations_are_paged(hub: RunningHub) -> None:
    """Each is on exactly one page, the most installed first; a search finds the one that it names."""
    one, _ = await hub.register("TICKET_CREATED", display_name="Zebra")
    await multiply(hub, one.integration_id, 10_000)
    await install(hub, one.integration_id)
    first = json.loads((await read(hub, "/integrations.json")).text)
    assert (first["total"], first["integrations"][0]["display_name"]) == (10_001, "Zebra")
    last = await read(hub, f"/integrations.json?page={first['pages']}")
    names = [entry["display_name"] for page in (json.loads(last.text),) for entry in page["integrations"]]
    assert names[-1] == "Copy 09999"
    assert len(names) == 10_001 - (first["pages"] - 1) * pages.PAGE_SIZE
    assert len((await read(hub, "/")).text) < 64 * 1024
    found = json.loads((await read(hub, "/integrations.json?q=copy%2007777&scope=ticket_created")).text)
    assert [entry["display_name"] for entry in found["integrations"]] == ["Copy 07777"]


async def test_too_many_requests_wait_and_are_then_refused(hub: RunningHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then is refused, with the time after which to ask again."""
    monkeypatch.setattr(pages, "MAX_WAIT", 0.0)
    async with asyncio.timeout(PATIENCE):
        while (answer := await read(hub, "/robots.txt")).status == 200:
            pass
    assert answer.status == 429
    assert int(answer.headers["Retry-After"]) >= 1


def test_work_in_a_thread_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """After each piece of its time, for as long as the pace says; nothing is lost."""
    rests: list[float] = []
    clock = [0.0]
    monkeypatch.setattr("time.sleep", rests.append)
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def work() -> Iterator[int]:
        for number in range(10):
            yield number
            clock[0] += PIECE * 0.51

    assert list(paced(work())) == list(range(10))
    assert rests == [REST] * 4


async def test_readers_of_the_directory_are_not_logged(tmp_path: Path) -> None:
    """No line for a page, a refusal or what is no HTTP; the line about serving names the port."""
    async with serving(cwd=tmp_path, HUB_DIRECTORY_LISTEN="127.0.0.1:0", HUB_HTTP_LISTEN="off") as hub:
        port = hub.log[-1]["directory_port"]
        for path in ("/", "/nowhere", "/?page=0"):
            await get(port, path)
        ended = await hub.stop()
        assert ended.code == 0
        assert [json.loads(line)["event"] for line in ended.err.splitlines()] == ["stopped"]


@pytest.mark.parametrize("address", ["nowhere", "0.0.0.0:8080"])
def test_wrong_addresses_are_reported_with_their_setting(address: str) -> None:
    """With the setting's name."""
    with pytest.raises(StartError, match="directory_listen: "):
        config.load({"directory_listen": address})

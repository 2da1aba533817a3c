"""What the tests of privacy share: erasures by name, waiting for their end, and looking for an id in raw files."""

import asyncio
from pathlib import Path
from typing import Any

from tickets.hub.v1 import event_pb2, privacy_service_pb2

from tests.support.calls import ask
from tests.support.events import event
from tests.support.governance import apply_for, approve, install, own_key
from tests.support.hubs import PATIENCE, Caller, RunningHub
from tests.support.nats_servers import Server, shared

USER = "812345678901234567"
LONGER = f"{USER}8"
"""An id of which `USER` is a prefix."""
FRIEND = "71234567890123456"
DONE = privacy_service_pb2.ERASURE_STATE_DONE


def by(user_id: str, event_id: str, guild_id: str = "51") -> event_pb2.Event:
    """A ticket that a user created."""
    return event(event_id, guild_id, ticket_created={"creator_user_id": user_id})


async def erase_user(hub: RunningHub, user_id: str = USER, **fields: Any) -> privacy_service_pb2.Erasure:  # noqa: ANN401  of the request
    """A user asks, through the bot, to be forgotten."""
    reply = await ask(hub.bot, "PrivacyService/EraseUser", user_id=user_id, acting_user_id=user_id, **fields)
    assert isinstance(reply.erasure, privacy_service_pb2.Erasure)
    return reply.erasure


async def erase_guild(hub: RunningHub, guild_id: str, **fields: Any) -> privacy_service_pb2.Erasure:  # noqa: ANN401  of the request
    """A guild's admin asks, through the bot, that it is forgotten."""
    reply = await ask(hub.bot, "PrivacyService/EraseGuild", guild_id=guild_id, acting_user_id="7", **fields)
    assert isinstance(reply.erasure, privacy_service_pb2.Erasure)
    return reply.erasure


async def done(who: Caller, erasure_id: str) -> privacy_service_pb2.Erasure:
    """An erasure once it is done."""
    async with asyncio.timeout(3 * PATIENCE):
        while True:
            erasure = (await ask(who, "PrivacyService/GetErasure", erasure_id=erasure_id)).erasure
            if erasure.state == DONE:
                assert isinstance(erasure, privacy_service_pb2.Erasure)
                return erasure
            await asyncio.sleep(0.01)


async def exported(who: Caller, /, **fields: Any) -> list[str]:  # noqa: ANN401  of the request
    """The ids of the events that the hub holds about somebody, over all pages."""
    found: list[str] = []
    token = ""
    while True:
        reply = await ask(who, "PrivacyService/ExportSubject", page_token=token, **fields)
        found += [one.id for one in reply.events]
        token = reply.next_page_token
        if not token:
            return found


def occurrences(directory: Path, text: str) -> int:
    """How often a text stands in the files below a directory, as bytes."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert files
    return sum(path.read_bytes().count(text.encode()) for path in files)


def in_memory(hub: RunningHub, text: str) -> int:
    """How many events that the hub keeps in memory for its readers hold a text."""
    feed: Any = hub.hub.feed
    pages = [cached for page in feed._pages._pages.values() for cached in page.events]
    return sum(text.encode() in cached.entry.body for cached in [*feed.window._events, *pages])


def in_the_store(hub: RunningHub, text: str) -> int:
    """How often a text stands in the raw files of a hub's store: database and WAL, or the files of the NATS stream."""
    if hub.settings.storage == "sqlite":
        return occurrences(hub.settings.data_dir, text)
    return occurrences(stream_files(shared(), hub.settings.nats_stream), text)


def stream_files(server: Server, stream: str) -> Path:
    """The directory in which a NATS server keeps a stream."""
    [found] = server.directory.rglob(f"streams/{stream}")
    return found


async def owned_and_deleted(hub: RunningHub) -> str:
    """An integration with all that may name its owner, deleted; its id."""
    one = (await apply_for(hub, "TICKET_CREATED", owner_user_id=USER)).integration_id
    await approve(hub, one, reason=f"{USER} is known")
    await own_key(hub, one, USER)
    await install(hub, one, "51", by=USER)
    await install(hub, one, "52", by=FRIEND)
    endpoint = {"endpoint_id": "hook", "url": "https://one.example/hook"}
    await ask(hub.bot, "WebhookService/CreateEndpoint", integration_id=one, acting_user_id=USER, endpoint=endpoint)
    await ask(hub.admin, "AdminService/DeleteIntegration", integration_id=one, reason=f"{USER} left")
    return one

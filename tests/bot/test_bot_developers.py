"""``t!integrationdev``, as developers use it: Discord is fake; discord.py, the hub and the receivers are real."""

import asyncio
import logging

import pytest
from tickets.hub.v1.integration_pb2 import Integration

from hub.model import Role
from tests.support.calls import ask, read
from tests.support.discord_api import CHANNEL, GUILD, Discord, Message, StartBot
from tests.support.hubs import PATIENCE, REGISTRATION, Caller, RunningHub, StartHub
from tests.support.receivers import ALLOWED, receiving

OWNER = REGISTRATION["owner_user_id"]
DIRECT = f"1{OWNER}"
FIELDS = '<"display_name"|"description"|"documentation_url"|"support_url">'


def secret_of(messages: list[Message], name: str) -> str:
    """The secret in the one file among these messages."""
    [message] = [one for one in messages if one.files]
    assert message.place == DIRECT
    [(file, text)] = message.files.items()
    assert file == f"{name}.env"
    assert text.startswith(f"{name}=")
    return text.removeprefix(f"{name}=").strip()


async def keys(hub: RunningHub, integration: Integration) -> int:
    """How many keys an integration has."""
    listed = await ask(
        hub.bot, "DeveloperService/ListOwnKeys", integration_id=integration.integration_id, acting_user_id=OWNER
    )
    return len(listed.keys)


async def test_developers_see_only_their_own_integrations(hub: RunningHub, discord: Discord) -> None:
    """Everybody sees their own, over all pages, with state and scopes."""
    for number in range(11):
        await hub.register(
            "TICKET_CREATED", display_name=f"Counter {number}", endpoint_url=f"https://a.example/{number}"
        )
    answers = await discord.says("t!integrationdev", OWNER)
    assert [name for one in answers for name in one.fields] == [f"Counter {number}" for number in range(11)]
    assert "is active\n**Receives** ticket_created\n**URL** https://a.example/0 is unverified" in answers[0].text
    [answer] = await discord.says("t!integrationdev", "7")
    assert "You have none." in answer.text


async def test_a_profile_is_changed_field_by_field(hub: RunningHub, discord: Discord) -> None:
    """One field at a time; the others stay."""
    integration, _ = await hub.register("TICKET_CREATED")
    name = integration.integration_id
    [answer] = await discord.says(f"t!integrationdev profile {name} description Counts tickets, too.", OWNER)
    assert answer.text == "Statistics: description is changed."
    now = await read(hub, name)
    assert (now.description, now.display_name) == ("Counts tickets, too.", "Statistics")


@pytest.mark.parametrize("guild", ["", GUILD])
async def test_a_new_key_is_sent_by_direct_message(
    hub: RunningHub, discord: Discord, caplog: pytest.LogCaptureFixture, guild: str
) -> None:
    """Wherever it was asked for; it works, and appears in no log at any level."""
    caplog.set_level(logging.DEBUG)
    integration, _ = await hub.register("TICKET_CREATED")
    sent = await discord.says(f"t!integrationdev key {integration.integration_id}", OWNER, guild=guild)
    assert {one.place for one in sent} == {DIRECT}
    secret = secret_of(sent, "HUB_KEY")
    await hub.caller(secret).subscribe()
    assert "discord.http" in {record.name for record in caplog.records}
    assert secret.rpartition("_")[2] not in caplog.text + "".join(one.text for one in sent)
    assert await keys(hub, integration) == 2


async def test_no_key_is_made_if_direct_messages_are_closed(hub: RunningHub, discord: Discord) -> None:
    """The channel says so, and the keys stay as they are."""
    integration, _ = await hub.register("TICKET_CREATED")
    discord.closed.add(OWNER)
    [answer] = await discord.says(f"t!integrationdev key {integration.integration_id}", OWNER, guild=GUILD)
    assert answer.place == CHANNEL
    assert answer.text == "I cannot send you a direct message: allow them for this server, then try again."
    assert await keys(hub, integration) == 1


async def test_commands_on_anothers_integration_are_refused(hub: RunningHub, discord: Discord) -> None:
    """The hub refuses each command, and nothing is made."""
    integration, _ = await hub.register("TICKET_CREATED")
    name = integration.integration_id
    for words in (f"key {name}", f"test {name}", f"webhook {name}", f"url {name} https://a.example", f"secret {name}"):
        *_, answer = await discord.says(f"t!integrationdev {words}", "7", guild=GUILD)
        assert answer.place == "17"
        assert "`NOT_OWNER`" in answer.text, words
        assert answer.files == {}
    *_, answer = await discord.says(f"t!integrationdev profile {name} display_name Mine", "7")
    assert "`NOT_OWNER`" in answer.text
    assert await keys(hub, integration) == 1


async def test_a_test_event_goes_through_the_integrations_view(hub: RunningHub, discord: Discord) -> None:
    """The answer says how many streams got it."""
    integration, reader = await hub.register("TICKET_CREATED", "MEMBER_VERIFIED")
    stream = await reader.subscribe()
    [answer] = await discord.says(f"t!integrationdev test {integration.integration_id}", OWNER, guild=GUILD)
    [event] = await stream.events(1)
    assert answer.text == f"The test event `{event.id}` went to 1 streams and webhooks."
    assert event.test
    assert (event.guild_id, event.ticket_created.creator_user_id) == (GUILD, OWNER)
    await discord.says(f"t!integrationdev test {integration.integration_id} member_verified", OWNER, guild=GUILD)
    [event] = await stream.events(1)
    assert event.WhichOneof("payload") == "member_verified"
    [answer] = await discord.says(f"t!integrationdev test {integration.integration_id} ticket_closed", OWNER)
    assert answer.text == "It receives no such event, only: ticket_created, member_verified."


async def send_test_event(discord: Discord, name: str) -> None:
    """Send a test event, once the integration is there to get it."""
    async with asyncio.timeout(PATIENCE):
        while True:
            [answer] = await discord.says(f"t!integrationdev test {name}", OWNER)
            if "went to 1 streams and webhooks" in answer.text:
                return
            assert answer.text == "No open stream or webhook shows the test event: connect one first."
            await asyncio.sleep(0.05)


async def test_a_webhook_is_set_up_by_commands(
    start_hub: StartHub, empty_discord: Discord, start_bot: StartBot
) -> None:
    """From the URL to the first event: the secret by direct message, the verification, the status, another secret."""
    hub = await start_hub(**ALLOWED)
    discord = empty_discord
    await start_bot(hub.address, hub.keys[Role.BOT])
    integration, _ = await hub.register("TICKET_CREATED")
    name = integration.integration_id
    async with receiving() as receiver:
        receiver.secret = secret_of(
            await discord.says(f"t!integrationdev url {name} {receiver.url}", OWNER), "WEBHOOK_SECRET"
        )
        [answer] = await discord.says(f"t!integrationdev verify {name}", OWNER)
        assert answer.text == "Your receiver is verified: events are delivered to it from now on."
        await send_test_event(discord, name)
        await receiver.until(lambda: len(receiver.ids) == 1)
        [status] = await discord.says(f"t!integrationdev webhook {name}", OWNER)
        assert "Your webhook is active" in status.text
        assert "accepted (HTTP 204)" in status.fields["Newest requests"]
        second = secret_of(await discord.says(f"t!integrationdev secret {name}", OWNER), "WEBHOOK_SECRET")
        assert second != receiver.secret
        receiver.secret = second
        await send_test_event(discord, name)
        await receiver.until(lambda: len(receiver.ids) == 2)
    await discord.says(f"t!integrationdev url {name} none", OWNER)
    [answer] = await discord.says(f"t!integrationdev webhook {name}", OWNER)
    assert "`ENDPOINT_NOT_FOUND`" in answer.text


async def test_changing_the_url_keeps_the_secret(
    start_hub: StartHub, empty_discord: Discord, start_bot: StartBot
) -> None:
    """The answer has the command to verify the new URL; its answer explains a receiver that replies wrongly."""
    hub = await start_hub(**ALLOWED)
    discord = empty_discord
    await start_bot(hub.address, hub.keys[Role.BOT])
    integration, reader = await hub.register("TICKET_CREATED")
    name = integration.integration_id
    secret_of(await discord.says(f"t!integrationdev url {name} http://127.0.0.1:1/a", OWNER), "WEBHOOK_SECRET")
    [answer] = await discord.says(f"t!integrationdev url {name} http://127.0.0.1:1/b", OWNER)
    assert answer.text.startswith("The URL is changed.")
    assert (await endpoint_of(reader)) == "http://127.0.0.1:1/b"
    _, command, _ = answer.text.split("`")
    [answer] = await discord.says(command, OWNER)
    assert "CONNECT" in answer.text
    assert "`ENDPOINT_NOT_VERIFIED`" in answer.text


async def endpoint_of(reader: Caller) -> str:
    """The URL of an integration's endpoint."""
    return str((await ask(reader, "WebhookService/GetEndpoint")).endpoint.url)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("key", "integration is a required argument that is missing. It is `t!integrationdev key <integration>`."),
        ("profile a owner 7", f"It is `t!integrationdev profile <integration> {FIELDS} <text>`."),
        ("key unknown", "(`INTEGRATION_NOT_FOUND`)"),
        ("key no-id", "(`INVALID_REQUEST`)"),
    ],
)
async def test_errors_of_a_command_are_sent_by_direct_message(discord: Discord, words: str, answer: str) -> None:
    """With the correct form, or with the hub's reason."""
    *_, found = await discord.says(f"t!integrationdev {words}", OWNER, guild=GUILD)
    assert found.place == DIRECT
    assert found.text.endswith(answer)


async def test_an_unreachable_hub_is_reported_without_its_address(hub: RunningHub, discord: Discord) -> None:
    """The developer learns it, and no address."""
    await hub.hub.stop()
    [answer] = await discord.says("t!integrationdev", OWNER)
    assert answer.text == "The hub of Tickets cannot be reached at the moment. Try again in a minute."

"""``/integrations``, as members and managers use it: Discord is fake, discord.py and the hub are real."""

import asyncio
import re
from collections.abc import Sequence

import pytest
from tickets.hub.v1 import directory_service_pb2, permissions_pb2

from hub.model import Role
from tests.support.calls import ask, set_scopes, steer
from tests.support.discord_api import GUILD, MANAGE_GUILD, Discord, Message, StartBot
from tests.support.events import EVERY_SCOPE, numbers, ticket
from tests.support.hubs import PATIENCE, RunningHub
from tests.support.privacy import by, done, exported

INSTALLED = {"guild_access": "GUILD_ACCESS_INSTALLED"}


async def installations(hub: RunningHub) -> Sequence[directory_service_pb2.Installation]:
    """Everything that is installed anywhere."""
    found: Sequence[directory_service_pb2.Installation] = (
        await ask(hub.bot, "DirectoryService/ListInstallations")
    ).installations
    return found


async def asked_to_install(discord: Discord, integration_id: str) -> Message:
    """What a manager sees who is about to install an integration."""
    return await discord.command("integrations install", permissions=MANAGE_GUILD, integration=integration_id)


async def test_the_commands_are_registered_with_discord(discord: Discord) -> None:
    """The bot registers one group with the commands, and the scopes of the contract as a filter."""
    [group] = discord.registered
    assert group["name"] == "integrations"
    given = {one["name"]: one for one in group["options"]}
    assert set(given) == {"find", "install", "uninstall", "disclosures", "forget-me"}
    [_, receives] = given["find"]["options"]
    assert [one["value"] for one in receives["choices"]] == sorted(numbers(*EVERY_SCOPE))


async def test_find_shows_pages_of_five(hub: RunningHub, discord: Discord) -> None:
    """Buttons turn the pages; only the person who asked can see and use them."""
    for number in range(7):
        await hub.register("TICKET_CREATED", display_name=f"Counter {number}")
    page = await discord.command("integrations find")
    assert page.is_private
    assert list(page.fields) == [f"Counter {number}" for number in range(5)]
    assert set(page.buttons) == {"Next"}
    page = await discord.press(page, "Next")
    assert list(page.fields) == ["Counter 5", "Counter 6"]
    assert set(page.buttons) == {"Back"}
    page = await discord.press(page, "Back")
    assert list(page.fields) == [f"Counter {number}" for number in range(5)]


async def test_find_filters_by_words_and_scope(hub: RunningHub, discord: Discord) -> None:
    """By words of name or description, and by what an integration receives; a single page has no buttons."""
    await hub.register("TICKET_CREATED", display_name="Counter")
    await hub.register("MEMBER_VERIFIED_IDENTITY", display_name="Doorman", description="Greets the verified.")
    by_words = await discord.command("integrations find", words="greets")
    assert list(by_words.fields) == ["Doorman"]
    assert by_words.buttons == {}
    assert "Identity of verified members (level 2)" in by_words.text
    by_scope = await discord.command("integrations find", receives=permissions_pb2.SCOPE_TICKET_CREATED)
    assert list(by_scope.fields) == ["Counter"]
    assert "No integration fits." in (await discord.command("integrations find", words="nothing like it")).text


async def test_texts_of_developers_are_not_formatted(hub: RunningHub, discord: Discord) -> None:
    """Discord formats none of it, and turns no other text into a link."""
    text = "[Free](https://a.example) and [gifts](https://b.example) for <@7>, **now**"
    await hub.register("TICKET_CREATED", display_name="*Star*", description=text)
    page = await discord.command("integrations find")
    assert list(page.fields) == [r"\*Star\*"]
    first, *_ = page.fields[r"\*Star\*"].splitlines()
    assert re.findall(r"(?<!\\)[\[\]*<]", first) == []
    assert first.replace("\\", "") == text


async def test_the_consent_lists_exactly_the_fields_and_levels(hub: RunningHub, discord: Discord) -> None:
    """For each scope that was granted its level and its fields: all that the hub would deliver, and no more."""
    integration, _ = await hub.register("TICKET_CREATED", "MEMBER_VERIFIED", "MEMBER_VERIFIED_IDENTITY")
    question = await asked_to_install(discord, integration.integration_id)
    assert question.is_private
    found = {
        name: re.findall(r"^`(.+)`$", value, re.MULTILINE)
        for name, value in question.fields.items()
        if name.startswith("Level")
    }
    assert found == {
        "Level 1: Tickets created": ["ticket_created.creator_user_id"],
        "Level 1: Members verified": ["member_verified"],
        "Level 2: Identity of verified members": ["member_verified.user_id"],
    }
    entry = (await ask(hub.bot, "DirectoryService/GetDirectoryEntry", integration_id=integration.integration_id)).entry
    assert [field for fields in found.values() for field in fields] == list(entry.fields)
    assert "https://stats.example/docs" in question.text


async def test_the_consent_has_room_for_every_scope(hub: RunningHub, discord: Discord) -> None:
    """An integration with every scope shows all of them."""
    integration, _ = await hub.register(*EVERY_SCOPE, description="x" * 1000)
    question = await asked_to_install(discord, integration.integration_id)
    scopes = (await ask(hub.bot, "DirectoryService/ListScopes")).scopes
    assert {f"Level {scope.level}: {scope.title}" for scope in scopes} <= question.fields.keys()
    assert len(question.text) < 6000  # Discord's limit for all embeds of a message


async def test_agreeing_installs_the_scopes_that_were_shown(hub: RunningHub, discord: Discord) -> None:
    """The consent has the manager and the scopes on the screen; delivery begins with it."""
    integration, reader = await hub.register("TICKET_CREATED", **INSTALLED)
    stream = await reader.subscribe()
    await hub.emit(ticket("before"))
    question = await asked_to_install(discord, integration.integration_id)
    await set_scopes(hub, integration, "TICKET_CREATED", "MEMBER_VERIFIED_IDENTITY")
    answer = await discord.press(question, "Install", permissions=MANAGE_GUILD)
    assert answer.text == "Statistics is installed. Go on with https://stats.example/docs"
    assert answer.buttons == {}
    [installed] = await installations(hub)
    assert (installed.guild_id, installed.acting_user_id) == (GUILD, "7")
    assert list(installed.agreed_scopes) == numbers("TICKET_CREATED")
    await hub.emit(ticket("after"))
    assert [event.id for event in await stream.events(1)] == ["after"]


async def test_declining_installs_nothing(hub: RunningHub, discord: Discord) -> None:
    """Cancel changes nothing, and leaves no button."""
    integration, _ = await hub.register("TICKET_CREATED", **INSTALLED)
    question = await asked_to_install(discord, integration.integration_id)
    answer = await discord.press(question, "Cancel", permissions=MANAGE_GUILD)
    assert answer.text == "Nothing was changed."
    assert answer.buttons == {}
    assert list(await installations(hub)) == []


async def test_no_answer_is_no_consent(hub: RunningHub, discord: Discord, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the time-out the question is gone, and nothing is installed."""
    monkeypatch.setattr("hub_cog.views.TIME_TO_ANSWER", 0.3)
    integration, _ = await hub.register("TICKET_CREATED", **INSTALLED)
    question = await asked_to_install(discord, integration.integration_id)
    assert "Install" in question.buttons
    answer = await discord.change(question)
    assert answer.text == "Nobody agreed in time: nothing was changed."
    assert answer.buttons == {}
    assert list(await installations(hub)) == []


async def test_only_managers_install_and_uninstall(hub: RunningHub, discord: Discord) -> None:
    """Neither by the command nor by a button that was shown to a manager, and in no direct message."""
    integration, _ = await hub.register("TICKET_CREATED", **INSTALLED)
    name = integration.integration_id
    for command in ("integrations install", "integrations uninstall"):
        refusal = await discord.command(command, integration=name)
        assert refusal.is_private
        assert refusal.text == "This is for those who may manage the server."
        outside = await discord.command(command, guild="", permissions=MANAGE_GUILD, integration=name)
        assert outside.text == "This works in a server only."
    question = await asked_to_install(discord, name)
    refusal = await discord.press(question, "Install")  # no manager any more
    assert refusal.is_private
    assert refusal.text == "This is for those who may manage the server."
    assert list(await installations(hub)) == []


async def test_agreeing_to_a_scope_revoked_meanwhile_is_refused(hub: RunningHub, discord: Discord) -> None:
    """The hub refuses it; the reason is shown, and the buttons stay."""
    integration, _ = await hub.register("TICKET_CREATED", "TICKET_STATS", **INSTALLED)
    question = await asked_to_install(discord, integration.integration_id)
    await set_scopes(hub, integration, "TICKET_CREATED")
    refusal = await discord.press(question, "Install", permissions=MANAGE_GUILD)
    assert refusal.is_private
    assert "`SCOPE_NOT_GRANTED`" in refusal.text
    assert "Cancel" in question.buttons
    assert list(await installations(hub)) == []


async def test_an_integration_without_scopes_cannot_be_installed(hub: RunningHub, discord: Discord) -> None:
    """Consent without scopes would cover whatever is granted later."""
    integration, _ = await hub.register("TICKET_CREATED", **INSTALLED)
    await set_scopes(hub, integration)
    answer = await asked_to_install(discord, integration.integration_id)
    assert answer.text == "It was granted nothing yet: there is nothing to install."
    assert answer.buttons == {}


async def test_uninstall_ends_delivery(hub: RunningHub, discord: Discord) -> None:
    """The question lists what ends; after the yes nothing of the server is delivered."""
    integration, reader = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe()
    question = await discord.command(
        "integrations uninstall", permissions=MANAGE_GUILD, integration=integration.integration_id
    )
    assert question.is_private
    assert question.fields.keys() == {"Level 1: Tickets created"}
    assert "`ticket_created.creator_user_id`" in question.text
    answer = await discord.press(question, "Uninstall", permissions=MANAGE_GUILD)
    assert answer.text == "It is uninstalled: nothing of this server is delivered to it any more."
    await hub.emit(ticket("here", GUILD))
    await hub.emit(ticket("elsewhere", "42"))
    assert [event.id for event in await stream.events(1)] == ["elsewhere"]


async def test_a_suspended_integration_can_be_uninstalled(hub: RunningHub, discord: Discord) -> None:
    """What receives nothing at the moment can be uninstalled, too."""
    integration, _ = await hub.register("TICKET_CREATED", **INSTALLED)
    await discord.press(
        await asked_to_install(discord, integration.integration_id), "Install", permissions=MANAGE_GUILD
    )
    await steer(hub, "Suspend", integration)
    question = await discord.command(
        "integrations uninstall", permissions=MANAGE_GUILD, integration=integration.integration_id
    )
    assert "It receives nothing at the moment." in question.text
    await discord.press(question, "Uninstall", permissions=MANAGE_GUILD)
    assert list(await installations(hub)) == []


async def test_integration_names_are_completed(hub: RunningHub, discord: Discord) -> None:
    """Everybody gets what can be installed; only managers get what their server has installed."""
    counter, _ = await hub.register("TICKET_CREATED", display_name="Counter")
    doorman, _ = await hub.register("MEMBER_VERIFIED", display_name="Doorman", **INSTALLED)
    found = await discord.completions("integrations install", integration="door")
    assert found == {"Doorman": doorman.integration_id}
    found = await discord.completions("integrations uninstall", permissions=MANAGE_GUILD, integration="")
    assert found == {"Counter": counter.integration_id}
    assert await discord.completions("integrations uninstall", integration="") == {}


async def disclosures(discord: Discord, user: str) -> Message:
    """What somebody sees who asks, once the hub has looked."""
    async with asyncio.timeout(PATIENCE):
        while True:
            seen = await discord.command("integrations disclosures", user)
            if "DISCLOSURES_NOT_READY" not in seen.text:
                return seen
            await asyncio.sleep(0.05)


async def test_disclosures_list_who_received_something(hub: RunningHub, discord: Discord) -> None:
    """Everybody sees which integrations received something about them, and nothing else."""
    _, reader = await hub.register("TICKET_CREATED")
    await hub.register("TICKET_CREATED", display_name="Never there")
    stream = await reader.subscribe()
    await hub.emit(by("7001", "t1"))
    await hub.emit(by("7001", "t2"))
    await stream.events(2)
    seen = await disclosures(discord, "7001")
    assert seen.is_private
    assert seen.fields.keys() == {"Statistics"}
    assert "`ticket_created.creator_user_id`" in seen.text
    assert "2 events by its stream" in seen.text
    nobody = await disclosures(discord, "7002")
    assert nobody.fields == {}
    assert "Nobody has received anything about you" in nobody.text


async def test_forget_me_erases_the_persons_events(hub: RunningHub, discord: Discord) -> None:
    """Only theirs; the number in the answer finds the progress."""
    await hub.emit(by("7001", "mine"))
    await hub.emit(by("7002", "theirs"))
    question = await discord.command("integrations forget-me", "7001", guild="")
    assert question.is_private
    answer = await discord.press(question, "Forget me", "7001")
    [number] = re.findall(r"the number `(\w+)`", answer.text)
    assert await exported(hub.bot, user_id="7001", acting_user_id="7001") == []
    assert await exported(hub.bot, user_id="7002", acting_user_id="7002") == ["theirs"]
    await done(hub.bot, number)
    later = await discord.command("integrations forget-me", "7001", number=number)
    assert "The hub's own copies: done, 100%." in later.text


async def test_cancelling_forget_me_erases_nothing(hub: RunningHub, discord: Discord) -> None:
    """Cancel erases nothing."""
    await hub.emit(by("7001", "mine"))
    question = await discord.command("integrations forget-me", "7001")
    assert (await discord.press(question, "Cancel", "7001")).text == "Nothing was changed."
    assert await exported(hub.bot, user_id="7001", acting_user_id="7001") == ["mine"]
    assert list((await ask(hub.bot, "PrivacyService/ListErasures")).erasures) == []


@pytest.mark.parametrize(
    ("command", "options", "reason"),
    [
        ("integrations install", {"integration": "unknown"}, "INTEGRATION_NOT_FOUND"),
        ("integrations install", {"integration": "no id!"}, "INVALID_REQUEST"),
        ("integrations find", {"words": "x" * 101}, "INVALID_REQUEST"),
        ("integrations forget-me", {"number": "unknown"}, "ERASURE_NOT_FOUND"),
    ],
)
async def test_refusals_of_the_hub_are_shown_to_the_caller_alone(
    discord: Discord, command: str, options: dict[str, str], reason: str
) -> None:
    """With the hub's own sentence and its reason."""
    answer = await discord.command(command, permissions=MANAGE_GUILD, **options)
    assert answer.is_private
    assert answer.text.startswith("The hub of Tickets says: ")
    assert f"(`{reason}`)" in answer.text


async def test_an_unreachable_hub_is_reported_without_its_address(hub: RunningHub, discord: Discord) -> None:
    """Suggestions stay empty."""
    await hub.hub.stop()
    answer = await discord.command("integrations find")
    assert answer.is_private
    assert answer.text == "The hub of Tickets cannot be reached at the moment. Try again in a minute."
    assert await discord.completions("integrations install", integration="") == {}


async def test_an_invalid_key_refers_people_to_the_bots_maintainers(
    hub: RunningHub, empty_discord: Discord, start_bot: StartBot, caplog: pytest.LogCaptureFixture
) -> None:
    """Their log has the reason, without the key."""
    key = hub.keys[Role.BOT][:-4] + "AAAA"
    await start_bot(hub.address, key)
    answer = await empty_discord.command("integrations find")
    assert answer.text.endswith("its maintainers have to look. (`KEY_UNKNOWN`)")
    assert "KEY_UNKNOWN" in caplog.text
    assert key not in caplog.text + answer.text

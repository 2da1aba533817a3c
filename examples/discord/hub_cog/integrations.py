"""``/integrations``: find and install integrations, learn who received what about you, and be forgotten."""

import discord
from discord import app_commands
from discord.ext import commands
from tickets_hub import HubCallError
from tickets_hub.v1.directory_service_pb2 import (
    FindIntegrationsRequest,
    GetDirectoryEntryRequest,
    GuildIntegration,
    InstallIntegrationRequest,
    ListGuildIntegrationsRequest,
    UninstallIntegrationRequest,
)
from tickets_hub.v1.permissions_pb2 import Scope, scope
from tickets_hub.v1.privacy_service_pb2 import EraseUserRequest, GetErasureRequest, ListDisclosuresRequest

from . import texts
from .calls import Hub
from .views import Pages, Question, answer_error, require_manager

SCOPES = [
    app_commands.Choice(name=value.GetOptions().Extensions[scope].title, value=value.number)
    for value in Scope.DESCRIPTOR.values
    if value.number
]
"""What an integration may receive, as the contract calls it."""

MOST_CHOICES = 25
"""Discord shows no more."""


class Integrations(commands.GroupCog, name="integrations", description="Services that receive events of this server"):
    """The commands for members and for those who manage a server."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    @app_commands.command()
    @app_commands.describe(words="words of its name or description", receives="only those that receive this")
    @app_commands.choices(receives=SCOPES)
    async def find(
        self, interaction: discord.Interaction, words: str = "", receives: app_commands.Choice[int] | None = None
    ) -> None:
        """Search for integrations."""
        wanted = [Scope.ValueType(receives.value)] if receives else []

        async def page(token: str) -> tuple[discord.Embed, str]:
            request = FindIntegrationsRequest(query=words, scopes=wanted, page_size=5, page_token=token)
            found = await self._hub.call(self._hub.directory.FindIntegrations, request)
            return texts.listed(found.integrations, await self._hub.scopes()), found.next_page_token

        await interaction.response.defer(ephemeral=True)
        await Pages(interaction, page).show(interaction, [""])

    @app_commands.command()
    @app_commands.describe(integration="its name")
    @app_commands.check(require_manager)
    async def install(self, interaction: discord.Interaction, integration: str) -> None:
        """See exactly what an integration would receive from this server, and agree or not."""
        await interaction.response.defer(ephemeral=True)
        request = GetDirectoryEntryRequest(integration_id=integration)
        entry = (await self._hub.call(self._hub.directory.GetDirectoryEntry, request)).entry
        if not entry.scopes:
            await interaction.edit_original_response(content="It was granted nothing yet: there is nothing to install.")
            return

        async def agree(by: discord.Interaction) -> str:
            require_manager(by)
            agreed = InstallIntegrationRequest(
                integration_id=entry.integration_id,
                guild_id=str(by.guild_id),
                acting_user_id=str(by.user.id),
                agreed_scopes=entry.scopes,  # what was shown, and not what was granted since
            )
            await self._hub.call(self._hub.directory.InstallIntegration, agreed)
            return f"{texts.plain(entry.display_name)} is installed. Go on with {texts.url(entry.documentation_url)}"

        embed = texts.consent(entry, await self._hub.scopes())
        await interaction.edit_original_response(embed=embed, view=Question(interaction, "Install", agree))

    @app_commands.command()
    @app_commands.describe(integration="its name")
    @app_commands.check(require_manager)
    async def uninstall(self, interaction: discord.Interaction, integration: str) -> None:
        """Send an integration no more events of this server."""
        await interaction.response.defer(ephemeral=True)

        async def end(by: discord.Interaction) -> str:
            require_manager(by)
            request = UninstallIntegrationRequest(
                integration_id=integration, guild_id=str(by.guild_id), acting_user_id=str(by.user.id)
            )
            await self._hub.call(self._hub.directory.UninstallIntegration, request)
            return "It is uninstalled: nothing of this server is delivered to it any more."

        known = {one.integration_id: one for one in await self._of_guild(interaction)}
        one = known.get(integration) or GuildIntegration(display_name=integration)
        embed = discord.Embed(title=f"Uninstall {texts.plain(one.display_name)}?")
        embed.description = "It receives this from this server:" if one.scopes else "It receives nothing at the moment."
        texts.add_scopes(embed, one.scopes, await self._hub.scopes())
        await interaction.edit_original_response(embed=embed, view=Question(interaction, "Uninstall", end))

    @app_commands.command()
    async def disclosures(self, interaction: discord.Interaction) -> None:
        """See who really received something about you."""

        async def page(token: str) -> tuple[discord.Embed, str]:
            me = str(interaction.user.id)
            request = ListDisclosuresRequest(user_id=me, acting_user_id=me, page_size=8, page_token=token)
            found = await self._hub.call(self._hub.privacy.ListDisclosures, request)
            return texts.disclosures(found.disclosures), found.next_page_token

        await interaction.response.defer(ephemeral=True)
        await Pages(interaction, page).show(interaction, [""])

    @app_commands.command(name="forget-me")
    @app_commands.describe(number="of an earlier request: says how far it is")
    async def forget_me(self, interaction: discord.Interaction, number: str = "") -> None:
        """Have everything about you erased, at the hub and at those who received it."""
        await interaction.response.defer(ephemeral=True)
        if number:
            found = await self._hub.call(self._hub.privacy.GetErasure, GetErasureRequest(erasure_id=number))
            await interaction.edit_original_response(content=texts.erasure(found.erasure))
            return

        async def forget(by: discord.Interaction) -> str:
            me = str(by.user.id)
            request = EraseUserRequest(user_id=me, acting_user_id=me, request_id=str(interaction.id))
            return texts.erasure((await self._hub.call(self._hub.privacy.EraseUser, request)).erasure)

        embed = discord.Embed(title="Forget you?")
        embed.description = (
            "Events about you up to now are erased for good, and every integration that received one learns that it "
            "has to delete it. What follows from now on is not affected."
        )
        await interaction.edit_original_response(embed=embed, view=Question(interaction, "Forget me", forget))

    @install.autocomplete("integration")
    async def _to_install(self, _: discord.Interaction, typed: str) -> list[app_commands.Choice[str]]:
        request = FindIntegrationsRequest(query=typed, page_size=MOST_CHOICES)
        try:
            found = await self._hub.call(self._hub.directory.FindIntegrations, request)
        except HubCallError:
            return []  # Discord has no room for a reason here; the command itself gives it
        return [app_commands.Choice(name=one.display_name, value=one.integration_id) for one in found.integrations]

    @uninstall.autocomplete("integration")
    @app_commands.check(require_manager)
    async def _to_uninstall(self, interaction: discord.Interaction, typed: str) -> list[app_commands.Choice[str]]:
        try:
            found = await self._of_guild(interaction)
        except HubCallError:
            return []
        fitting = [one for one in found if typed.lower() in one.display_name.lower()]
        return [app_commands.Choice(name=one.display_name, value=one.integration_id) for one in fitting[:MOST_CHOICES]]

    async def _of_guild(self, interaction: discord.Interaction) -> list[GuildIntegration]:
        """Who receives events of the guild now."""
        request = ListGuildIntegrationsRequest(guild_id=str(interaction.guild_id), page_size=200)
        found = list[GuildIntegration]()
        while True:
            answer = await self._hub.call(self._hub.directory.ListGuildIntegrations, request)
            found += answer.integrations
            request.page_token = answer.next_page_token
            if not request.page_token:
                return found

    async def cog_app_command_error(
        self, interaction: discord.Interaction, error: app_commands.AppCommandError
    ) -> None:
        """Say what went wrong."""
        await answer_error(interaction, error)

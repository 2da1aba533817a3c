"""A fake Discord: its REST API on loopback, and events of its gateway.

discord.py itself is real: commands come in as the gateway's payloads, answers go out as HTTP requests to this server.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import BodyPartReader, web
from discord.ext import commands
from discord.http import Route

from tests.support.hubs import PATIENCE, until

APPLICATION = "900000000000000001"
GUILD = "41"
CHANNEL = "4100"
MANAGE_GUILD = 0x20
EPHEMERAL = 64

Payload = dict[str, Any]
StartBot = Callable[[str, str], Awaitable[commands.Bot]]
"""Starts the bot of the example for the address of a hub and a key."""


@dataclass
class Message:
    """A message of the bot: what it says now, and the files in it.

    Attributes:
        place: the channel, or the token of the interaction that it answers.
    """

    place: str
    payload: Payload
    files: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """All that people read in it."""
        parts = [self.payload.get("content") or ""]
        for embed in self.payload.get("embeds") or ():
            parts += [embed.get("title", ""), embed.get("description", "")]
            parts += [f"{one['name']}\n{one['value']}" for one in embed.get("fields", ())]
            parts.append(embed.get("footer", {}).get("text", ""))
        return "\n".join(part for part in parts if part)

    @property
    def fields(self) -> dict[str, str]:
        """The fields of its embed."""
        return {one["name"]: one["value"] for one in self.payload["embeds"][0].get("fields", ())}

    @property
    def buttons(self) -> dict[str, Payload]:
        """Its buttons that can be pressed, by their labels."""
        rows = self.payload.get("components") or ()
        return {one["label"]: one for row in rows for one in row["components"] if not one.get("disabled")}

    @property
    def is_private(self) -> bool:
        """Whether only the person who asked sees it."""
        return bool(self.payload.get("flags", 0) & EPHEMERAL)


class Discord:
    """The server, and what people do there.

    Attributes:
        messages: those that the bot sent into channels, in order.
        closed: users to whom no direct message gets through.
        registered: the commands that the bot has registered.
    """

    def __init__(self) -> None:
        self.bot: commands.Bot
        self._gateway: Any = None
        self.messages: list[Message] = []
        self.closed: set[str] = set()
        self.registered: list[Payload] = []
        self.choices: asyncio.Queue[list[Payload]] = asyncio.Queue()
        self._answers: dict[str, Message] = {}  # by the token of an interaction
        self._news: dict[str, asyncio.Queue[Message]] = {}  # the same: what the person who asked sees next
        self._ids = itertools.count(800_000_000_000_000_000)

    def connect(self, bot: commands.Bot) -> None:
        """Let a bot that has logged in see the guild."""
        self.bot, self._gateway = bot, bot._connection
        channel = {"id": CHANNEL, "type": 0, "name": "general", "position": 0, "permission_overwrites": []}
        member: Payload = {"user": self._user(APPLICATION), "roles": [], "joined_at": None, "flags": 0}
        guild = {"id": GUILD, "name": "Guild", "channels": [channel], "members": [member], "unavailable": None}
        self._gateway.parse_guild_create(guild)

    async def command(
        self, words: str, user: str = "7", /, *, permissions: int = 0, guild: str = GUILD, **options: str | int
    ) -> Message:
        """Somebody uses a slash command, "integrations find"; returns what they see."""
        return await self._seen(self._slash(2, words, user, permissions, guild, options))

    async def completions(
        self, words: str, user: str = "7", /, *, permissions: int = 0, **options: str
    ) -> dict[str, str]:
        """What Discord suggests to somebody who is typing the last of these options: names and their values."""
        self._slash(4, words, user, permissions, GUILD, options)
        async with asyncio.timeout(PATIENCE):
            return {one["name"]: one["value"] for one in await self.choices.get()}

    async def press(self, message: Message, label: str, user: str = "7", *, permissions: int = 0) -> Message:
        """Somebody presses a button; returns what they see next."""
        custom_id = message.buttons[label]["custom_id"]
        await until(lambda: (2, custom_id) in self._gateway._view_store._views.get(int(message.payload["id"]), ()))
        data = {"custom_id": custom_id, "component_type": 2}
        interaction = self._interaction(3, data, user, permissions, GUILD) | {"message": message.payload}
        self._answers[interaction["token"]] = message
        return await self._seen(self._arrives(interaction))

    async def change(self, message: Message) -> Message:
        """The answer to a command once the bot has changed it by itself."""
        return await self._seen(message.place)

    async def says(self, text: str, user: str = "7", *, guild: str = "") -> list[Message]:
        """Somebody writes a message, to the bot itself unless a guild is given; returns what the bot sends for it."""
        before = len(self.messages)
        channel = CHANNEL if guild else f"1{user}"
        payload = self._message(channel, self._user(user), {"content": text})
        handled = asyncio.get_running_loop().create_future()

        async def done(ctx: commands.Context[Any], *_: object) -> None:
            if str(ctx.message.id) == payload["id"] and not handled.done():
                handled.set_result(None)

        self.bot.add_listener(done, "on_command_completion")
        self.bot.add_listener(done, "on_command_error")
        self._gateway.parse_message_create(payload | ({"guild_id": guild} if guild else {}))
        async with asyncio.timeout(PATIENCE):
            await handled
        self.bot.remove_listener(done, "on_command_completion")
        self.bot.remove_listener(done, "on_command_error")
        return self.messages[before:]

    def _slash(self, kind: int, words: str, user: str, permissions: int, guild: str, options: Mapping[str, Any]) -> str:
        group, _, name = words.partition(" ")
        types = {str: 3, int: 4}
        given = [{"name": one, "type": types[type(value)], "value": value} for one, value in options.items()]
        if kind == 4:
            given[-1]["focused"] = True
        inner = {"name": name, "type": 1, "options": given}
        data = {"id": "1", "name": group, "type": 1, "options": [inner]}
        return self._arrives(self._interaction(kind, data, user, permissions, guild))

    def _interaction(self, kind: int, data: Payload, user: str, permissions: int, guild: str) -> Payload:
        number = str(next(self._ids))
        payload: Payload = {"id": number, "type": kind, "token": f"t{number}", "version": 1, "data": data}
        payload |= {"application_id": APPLICATION, "attachment_size_limit": 1}
        if not guild:
            return payload | {"user": self._user(user), "channel": {"id": f"1{user}", "type": 1}}
        member: Payload = {
            "user": self._user(user),
            "roles": [],
            "joined_at": None,
            "deaf": False,
            "mute": False,
            "flags": 0,
        }
        payload |= {"guild_id": guild, "member": member | {"permissions": str(permissions)}}
        return payload | {"channel": {"id": CHANNEL, "type": 0, "name": "general", "position": 0}}

    def _arrives(self, interaction: Payload) -> str:
        token = str(interaction["token"])
        self._news[token] = asyncio.Queue()
        self._gateway.parse_interaction_create(interaction)
        return token

    async def _seen(self, token: str) -> Message:
        async with asyncio.timeout(PATIENCE):
            return await self._news[token].get()

    def _user(self, user: str) -> Payload:
        return {"id": user, "username": f"user{user}", "discriminator": "0", "avatar": None, "global_name": None}

    def _message(self, channel: str, author: Payload, payload: Payload) -> Payload:
        whole: Payload = {"id": str(next(self._ids)), "channel_id": channel, "author": author, "content": ""}
        whole |= {"timestamp": "2026-01-01T00:00:00+00:00", "edited_timestamp": None, "tts": False, "type": 0}
        whole |= {"mention_everyone": False, "mentions": [], "mention_roles": [], "pinned": False}
        return whole | {"attachments": [], "embeds": [], "components": []} | payload

    def _from_bot(self, channel: str, payload: Payload) -> Payload:
        whole = self._message(channel, self._user(APPLICATION) | {"bot": True}, payload)
        return whole | {name: whole[name] or [] for name in ("embeds", "components")}

    async def me(self, _: web.Request) -> web.Response:
        """The bot's own account."""
        return answer(self._user(APPLICATION) | {"bot": True, "verified": True})

    async def application(self, _: web.Request) -> web.Response:
        """The bot's application."""
        whole: Payload = {"id": APPLICATION, "name": "Tickets", "description": "", "icon": None, "bot_public": True}
        whole |= {"bot_require_code_grant": False, "verify_key": "", "flags": 0, "summary": ""}
        return answer(whole | {"owner": self._user("1"), "rpc_origins": [], "team": None})

    async def register(self, request: web.Request) -> web.Response:
        """Take the commands of the bot."""
        self.registered = await request.json()
        ids = {"application_id": APPLICATION, "version": "1"}
        return answer([one | ids | {"id": str(next(self._ids))} for one in self.registered])

    async def respond(self, request: web.Request) -> web.Response:
        """Take the first answer to an interaction."""
        token, body = request.match_info["token"], await request.json()
        data = body.get("data") or {}
        if body["type"] == 8:
            self.choices.put_nowait(data["choices"])
        elif body["type"] in (4, 5):
            self._answers[token] = Message(token, self._from_bot(CHANNEL, data))
            if body["type"] == 4:
                self._news[token].put_nowait(self._answers[token])
        return answer({"interaction": {"id": request.match_info["id"], "type": 2}})

    async def edit(self, request: web.Request) -> web.Response:
        """Change the answer to an interaction."""
        message, changes = self._answers[request.match_info["token"]], await request.json()
        message.payload |= {name: [] if value is None else value for name, value in changes.items()}
        self._news[request.match_info["token"]].put_nowait(message)
        return answer(message.payload)

    async def follow_up(self, request: web.Request) -> web.Response:
        """Take another answer to an interaction."""
        token = request.match_info["token"]
        message = Message(token, self._from_bot(CHANNEL, await request.json()))
        self._news[token].put_nowait(message)
        return answer(message.payload)

    async def open_direct(self, request: web.Request) -> web.Response:
        """Open the channel of direct messages to a user: a 1 before their id is its id."""
        user = str((await request.json())["recipient_id"])
        return answer({"id": f"1{user}", "type": 1, "recipients": [self._user(user)]})

    async def send(self, request: web.Request) -> web.Response:
        """Take a message of the bot."""
        channel = request.match_info["channel"]
        if channel[1:] in self.closed:
            return answer({"code": 50007, "message": "Cannot send messages to this user"}, status=403)
        files = dict[str, str]()
        if request.content_type == "multipart/form-data":
            parts = dict[str, str]()
            async for part in await request.multipart():
                assert isinstance(part, BodyPartReader)
                parts[part.filename or "payload_json"] = await part.text()
            payload, files = json.loads(parts.pop("payload_json")), parts
            payload.pop("attachments", None)
        else:
            payload = await request.json()
        self.messages.append(Message(channel, self._from_bot(channel, payload), files))
        return answer(self.messages[-1].payload)

    async def react(self, _: web.Request) -> web.Response:
        """Take a reaction."""
        return web.Response(status=204)


def answer(payload: Any, status: int = 200) -> web.Response:  # noqa: ANN401  any JSON
    """An answer of Discord, which names its type as Discord does: discord.py takes no other for JSON."""
    return web.Response(body=json.dumps(payload).encode(), status=status, headers={"content-type": "application/json"})


@asynccontextmanager
async def discord_running(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Discord]:
    """Discord, as the only one that discord.py knows."""
    discord = Discord()
    application = web.Application()
    application.add_routes(
        [
            web.get("/users/@me", discord.me),
            web.get("/oauth2/applications/@me", discord.application),
            web.put("/applications/{id}/commands", discord.register),
            web.post("/interactions/{id}/{token}/callback", discord.respond),
            web.patch("/webhooks/{id}/{token}/messages/@original", discord.edit),
            web.post("/webhooks/{id}/{token}", discord.follow_up),
            web.post("/users/@me/channels", discord.open_direct),
            web.post("/channels/{channel}/messages", discord.send),
            web.put("/channels/{channel}/messages/{id}/reactions/{emoji}/@me", discord.react),
        ]
    )
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setattr(Route, "BASE", f"http://127.0.0.1:{runner.addresses[0][1]}")
    try:
        yield discord
    finally:
        await runner.cleanup()

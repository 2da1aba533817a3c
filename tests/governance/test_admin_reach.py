"""What admins can do to what is not theirs: tail a view, end a stream, delete a name, send a test, rename a key."""

from typing import Any

import grpc
import pytest

from tests.support.calls import ask, commit, fails, info_of, reason_of, subscriptions
from tests.support.events import EVERY_SCOPE, event, numbers
from tests.support.hubs import FakeClock, RunningHub, StartHub, emit, live, log_to_memory, scope_requests, until
from tests.support.streams import RawStream, names_until, notice, settle

TICKET: dict[str, Any] = {"ticket_created": {"creator_user_id": "7"}}


async def trail(hub: RunningHub, integration_id: str) -> list[Any]:
    """The audit entries of an integration, the newest first."""
    return list((await ask(hub.admin, "AdminService/ListAuditEntries", integration_id=integration_id)).entries)


def key_id(key: str) -> str:
    """The id in the text of a key."""
    return key.split("_")[2]


async def test_an_admins_tail_does_not_count_as_a_stream(hub: RunningHub) -> None:
    """It takes nothing over, fills no slot, creates no subscription and does not count as use."""
    integration, reader = await hub.register("TICKET_CREATED")
    own = await reader.subscribe(subscription_id="own")
    own_id = live(hub)[0].subscriber.stream_id
    used = hub.hub.registry.usage
    tails = [await hub.admin.subscribe(integration_id=integration.integration_id) for _ in range(6)]
    own.call.cancel()
    await until(lambda: all(stream.subscriber.is_tail for stream in live(hub)))
    known = dict(used.streams), dict(used.scopes[integration.integration_id])
    await emit(hub, ["one"])
    for tail in tails:
        assert await names_until(tail, "one") == ["one"]
    hub.hub.streams.note_usage()
    assert (used.streams, used.scopes[integration.integration_id]) == known
    assert set(await subscriptions(reader)) == {"own"}
    claim = hub.hub.registry.readers.claims[f"{integration.integration_id}/own"]
    assert claim.record.stream_id == own_id
    sent = await ask(reader, "DeveloperService/SendTestEvent", event=event("x", **TICKET))
    assert sent.stream_count == 0


async def test_an_admins_tail_does_not_disturb_the_integration(hub: RunningHub) -> None:
    """Its stream stays open, also at the limit, and the tail leaves no trace among its subscriptions."""
    integration, reader = await hub.register("TICKET_CREATED")
    own = [await reader.subscribe(subscription_id=name) for name in "abcde"]
    tail = await hub.admin.subscribe(integration_id=integration.integration_id)
    await emit(hub, ["one"])
    for stream in (*own, tail):
        assert await names_until(stream, "one") == ["one"]
    tail.call.cancel()
    await until(lambda: len(live(hub)) == 5)
    await emit(hub, ["two"])
    for stream in own:
        assert await names_until(stream, "two") == ["two"]


@pytest.mark.parametrize("granted", [("TICKET_CREATED",), ("MEMBER_VERIFIED",), EVERY_SCOPE, ()])
async def test_a_tail_shows_exactly_the_integrations_view(start_hub: StartHub, granted: tuple[str, ...]) -> None:
    """Frame for frame the events and fields that the integration gets, also where guilds have to install it."""
    clock = FakeClock()
    hub = await start_hub(clock)
    integration, reader = await hub.register("TICKET_CREATED", guild_access=2)
    who = {"integration_id": integration.integration_id}
    await ask(hub.admin, "AdminService/SetScopes", scopes=scope_requests(*granted), **who)
    if granted:
        await ask(hub.bot, "DirectoryService/InstallIntegration", guild_id="41", acting_user_id="7", **who)
    for guild in ("41", "42"):
        for name, payload in (
            ("t", TICKET),
            ("c", {"ticket_closed": {"message_count": 3}}),
            ("m", {"member_verified": {"user_id": "7"}}),
            ("d", {"drop_claimed": {"xp_amount": 4}}),
        ):
            await hub.emit(event(f"{name}{guild}", guild, **payload))
    streams = [RawStream(reader, integration.integration_id), RawStream(hub.admin, "", **who)]
    await settle(hub, clock, streams)
    own, tail = ([one.SerializeToString(deterministic=True) for one in stream.events] for stream in streams)
    assert tail == own
    for stream in streams:
        stream.close()


async def test_revocations_apply_to_tails_at_once(hub: RunningHub) -> None:
    """A scope, a suspension, a block: at once, with the same reason as for the integration's streams."""
    integration, _ = await hub.register("TICKET_CREATED", "TICKET_STATS")
    who = {"integration_id": integration.integration_id}
    tail = await hub.admin.subscribe(**who)
    await ask(hub.admin, "AdminService/SetScopes", scopes=scope_requests("TICKET_STATS"), reason="less", **who)
    await emit(hub, ["hidden"])
    await hub.emit(event("seen", ticket_closed={"message_count": 3}))
    assert (await notice(tail, "grants_changed")).grants_changed.reason == "less"
    assert await names_until(tail, "seen") == ["seen"]
    await ask(hub.admin, "AdminService/SuspendIntegration", reason="for now", **who)
    assert reason_of(await tail.ending()) == "INTEGRATION_SUSPENDED"
    assert reason_of(await hub.admin.open(**who).ending()) == "INTEGRATION_SUSPENDED"
    await ask(hub.admin, "AdminService/ResumeIntegration", **who)
    tail = await hub.admin.subscribe(**who)
    owner = integration.owner_user_id
    await ask(hub.admin, "AdminService/BlockDeveloper", user_id=owner, source="CyberShield", reason="spam")
    assert reason_of(await tail.ending()) == "DEVELOPER_BLOCKED"
    narrowed = hub.admin.open(scopes=numbers("DROP_CLAIMED"), **who)
    assert reason_of(await narrowed.ending()) == "DEVELOPER_BLOCKED"


async def test_a_tail_ends_with_the_key_of_its_admin(hub: RunningHub) -> None:
    """When the key is revoked the tail ends at once; another admin's tail continues."""
    integration, _ = await hub.register("TICKET_CREATED")
    created = await ask(hub.admin, "AdminService/CreateServiceKey", role=3, display_name="second")
    who = {"integration_id": integration.integration_id}
    tail, other = await hub.caller(created.key.secret).subscribe(**who), await hub.admin.subscribe(**who)
    await ask(hub.admin, "AdminService/RevokeKey", key_id=created.key.key_id)
    assert reason_of(await tail.ending()) == "KEY_REVOKED"
    await emit(hub, ["after"])
    assert await names_until(other, "after") == ["after"]


async def test_the_audit_trail_keeps_who_tailed_and_when(hub: RunningHub) -> None:
    """Each tail has an entry before it shows anything; a refused one has none."""
    integration, _ = await hub.register("TICKET_CREATED")
    who = {"integration_id": integration.integration_id}
    before = len(await trail(hub, integration.integration_id))
    assert reason_of(await hub.admin.open(cursor="abc", **who).ending()) == "CURSOR_INVALID"
    assert len(await trail(hub, integration.integration_id)) == before
    tail = await hub.admin.subscribe(reason="a complaint", **who)
    [entry, *_] = await trail(hub, integration.integration_id)
    assert (entry.method, entry.actor.key_id, entry.reason) == (
        "EventService/Subscribe",
        key_id(hub.admin.key),
        "a complaint",
    )
    assert entry.HasField("time")
    assert '"tail"' in [change.after for change in entry.changes]
    by_method = await ask(hub.admin, "AdminService/ListAuditEntries", method="Subscribe")
    assert len(by_method.entries) == 1
    assert tail.call.done() is False


async def test_a_tail_has_no_committed_cursor(hub: RunningHub) -> None:
    """It has no subscription, and an admin cannot commit."""
    integration, _ = await hub.register("TICKET_CREATED")
    who = {"integration_id": integration.integration_id}
    tail = await hub.admin.subscribe(**who)
    for wrong in ({"subscription_id": "x", **who}, {"committed": {}, **who}, {}):
        assert reason_of(await hub.admin.open(**wrong).ending()) == "INVALID_REQUEST"
    assert reason_of(await hub.admin.open(integration_id="nobody").ending()) == "INTEGRATION_NOT_FOUND"
    with pytest.raises(grpc.aio.AioRpcError, match="ADMIN"):
        await commit(hub.admin, tail.frames[0].cursor)


async def test_integrations_see_only_themselves(hub: RunningHub) -> None:
    """An integration may give its own id; another id is as one that does not exist; it cannot give a reason."""
    integration, reader = await hub.register("TICKET_CREATED")
    other, _ = await hub.register("TICKET_CREATED")
    stream = await reader.subscribe(integration_id=integration.integration_id)
    for named in (other.integration_id, "nobody"):
        assert reason_of(await reader.open(integration_id=named).ending()) == "INTEGRATION_NOT_FOUND"
        gone = ask(reader, "EventService/DeleteSubscription", integration_id=named)
        assert reason_of(await fails(gone)) == "INTEGRATION_NOT_FOUND"
    assert reason_of(await reader.open(reason="why").ending()) == "INVALID_REQUEST"
    await emit(hub, ["after"])
    assert await names_until(stream, "after") == ["after"]


async def test_the_number_of_tails_is_limited(start_hub: StartHub) -> None:
    """One more is refused, with the limit; it costs the integrations' streams nothing."""
    hub = await start_hub(max_tails=1)
    integration, reader = await hub.register("TICKET_CREATED")
    who = {"integration_id": integration.integration_id}
    tail = await hub.admin.subscribe(**who)
    ending = await hub.admin.open(**who).ending()
    assert (reason_of(ending), info_of(ending).metadata["limit"]) == ("TOO_MANY_STREAMS", "1")
    assert (await reader.subscribe()).frames[0].HasField("ready")
    tail.call.cancel()
    await until(lambda: not any(stream.subscriber.is_tail for stream in live(hub)))
    assert (await hub.admin.subscribe(**who)).frames[0].HasField("ready")


async def test_end_stream_gives_a_reason_and_allows_a_reconnect(hub: RunningHub) -> None:
    """Goodbye with the reason, then STREAM_ENDED; cursor and other streams are unaffected; it is in the trail."""
    integration, reader = await hub.register("TICKET_CREATED")
    stream, other = await reader.subscribe(), await reader.subscribe(subscription_id="other")
    await commit(reader, stream.frames[0].cursor)
    await ask(hub.admin, "AdminService/EndStream", integration_id=integration.integration_id, reason="it is stuck")
    ending = await stream.ending()
    assert (ending.code(), reason_of(ending)) == (grpc.StatusCode.UNAVAILABLE, "STREAM_ENDED")
    assert "it is stuck" in str(ending.details())
    goodbye = stream.frames[-1].goodbye
    assert goodbye.reconnect
    assert "it is stuck" in goodbye.reason
    await emit(hub, ["meanwhile"])
    again = await reader.subscribe(committed={})
    for one in (other, again):
        assert await names_until(one, "meanwhile") == ["meanwhile"]
    [entry, *_] = await trail(hub, integration.integration_id)
    assert (entry.method, entry.reason) == ("AdminService/EndStream", "it is stuck")


async def test_end_stream_without_a_stream_or_subscription(hub: RunningHub) -> None:
    """A subscription without a stream stays as it is; an unknown name is SUBSCRIPTION_NOT_FOUND."""
    integration, reader = await hub.register("TICKET_CREATED")
    who = {"integration_id": integration.integration_id, "reason": "why not"}
    assert reason_of(await fails(ask(hub.admin, "AdminService/EndStream", **who))) == "SUBSCRIPTION_NOT_FOUND"
    stream = await reader.subscribe()
    stream.call.cancel()
    await until(lambda: not live(hub))
    await ask(hub.admin, "AdminService/EndStream", **who)
    assert (await reader.subscribe()).frames[0].HasField("ready")
    who["integration_id"] = "nobody"
    assert reason_of(await fails(ask(hub.admin, "AdminService/EndStream", **who))) == "INTEGRATION_NOT_FOUND"


async def test_an_admin_deletes_a_subscription(hub: RunningHub) -> None:
    """Its stream ends, its cursor is gone, and the trail has the admin and the reason."""
    integration, reader = await hub.register("TICKET_CREATED")
    who = {"integration_id": integration.integration_id}
    stream = await reader.subscribe(subscription_id="old")
    await ask(hub.admin, "EventService/DeleteSubscription", subscription_id="old", reason="left over", **who)
    assert reason_of(await stream.ending()) == "SUBSCRIPTION_NOT_FOUND"
    assert await subscriptions(reader) == {}
    [entry, *_] = await trail(hub, integration.integration_id)
    assert (entry.method, entry.reason, entry.actor.key_id) == (
        "EventService/DeleteSubscription",
        "left over",
        key_id(hub.admin.key),
    )
    gone = ask(hub.admin, "EventService/DeleteSubscription", subscription_id="old", **who)
    assert reason_of(await fails(gone)) == "SUBSCRIPTION_NOT_FOUND"
    assert reason_of(await fails(ask(hub.admin, "EventService/DeleteSubscription"))) == "INVALID_REQUEST"


async def test_an_admin_previews_and_sends_a_test(hub: RunningHub) -> None:
    """By the integration's view; a sent test event is in the trail, a preview changes nothing."""
    integration, reader = await hub.register("MEMBER_VERIFIED")
    who = {"integration_id": integration.integration_id}
    verified = event("v", member_verified={"user_id": "7"})
    preview = await ask(hub.admin, "DeveloperService/PreviewEvent", event=verified, **who)
    own = await ask(reader, "DeveloperService/PreviewEvent", event=verified)
    assert (preview.delivered, list(preview.withheld)) == (True, list(own.withheld))
    assert not preview.event.member_verified.user_id
    stream = await reader.subscribe()
    sent = await ask(hub.admin, "DeveloperService/SendTestEvent", event=verified, **who)
    assert sent.stream_count == 1
    [shown] = await stream.events(1)
    assert shown.test
    [entry, *_] = await trail(hub, integration.integration_id)
    assert (entry.method, entry.actor.key_id) == ("DeveloperService/SendTestEvent", key_id(hub.admin.key))
    for method in ("PreviewEvent", "SendTestEvent"):
        for wrong in ({}, {"acting_user_id": "7", **who}):
            error = await fails(ask(hub.admin, f"DeveloperService/{method}", event=verified, **wrong))
            assert reason_of(error) == "INVALID_REQUEST"


async def test_an_admin_lists_installations(hub: RunningHub) -> None:
    """The same list as the bot's."""
    integration, _ = await hub.register("TICKET_CREATED")
    who = {"integration_id": integration.integration_id}
    await ask(hub.bot, "DirectoryService/InstallIntegration", guild_id="41", acting_user_id="7", **who)
    seen = await ask(hub.admin, "DirectoryService/ListInstallations", **who)
    assert seen == await ask(hub.bot, "DirectoryService/ListInstallations", **who)
    assert [one.guild_id for one in seen.installations] == ["41"]


async def test_a_directory_entry_is_read_by_its_id(hub: RunningHub) -> None:
    """As FindIntegrations shows it; an unlisted integration is as one that does not exist."""
    integration, reader = await hub.register("TICKET_CREATED")
    who = {"integration_id": integration.integration_id}
    [found] = (await ask(hub.bot, "DirectoryService/FindIntegrations")).integrations
    for caller in (hub.bot, hub.admin, reader):
        assert (await ask(caller, "DirectoryService/GetDirectoryEntry", **who)).entry == found
    await ask(hub.admin, "AdminService/SuspendIntegration", reason="for now", **who)
    errors = [
        await fails(ask(hub.bot, "DirectoryService/GetDirectoryEntry", integration_id=named))
        for named in (integration.integration_id, "nobody")
    ]
    assert {reason_of(error) for error in errors} == {"INTEGRATION_NOT_FOUND"}


async def test_a_service_key_can_be_renamed(hub: RunningHub) -> None:
    """By the rules of masks; the key still works, and the trail has both names."""
    created = await ask(hub.admin, "AdminService/CreateServiceKey", role=1, display_name="bot of Tuesday")
    key = {"key_id": created.key.key_id}

    async def rename(name: str, *paths: str) -> Any:  # noqa: ANN401  the reply
        mask = {"paths": list(paths)}
        return await ask(hub.admin, "AdminService/UpdateServiceKey", key=key | {"display_name": name}, update_mask=mask)

    renamed = (await rename("bot of Friday", "display_name")).key
    assert (renamed.display_name, renamed.secret, renamed.role) == ("bot of Friday", "", created.key.role)
    assert (await rename("bot of Monday")).key.display_name == "bot of Monday"
    assert (await rename("")).key.display_name == "bot of Monday"
    assert (await rename("bot", "*")).key.display_name == "bot"
    await ask(hub.caller(created.key.secret), "DirectoryService/ListScopes")
    for name, paths in (("", ("display_name",)), ("x" * 81, ()), ("\x1b[2J", ()), ("x", ("role",)), ("", ("*",))):
        assert reason_of(await fails(rename(name, *paths))) == "INVALID_REQUEST"
    key["key_id"] = "nobody"
    assert reason_of(await fails(rename("x"))) == "KEY_NOT_FOUND"
    key["key_id"] = ""
    assert reason_of(await fails(rename("x"))) == "INVALID_REQUEST"
    entries = (await ask(hub.admin, "AdminService/ListAuditEntries", method="UpdateServiceKey")).entries
    assert len(entries) == 3
    assert "bot of Tuesday" in entries[-1].changes[0].before


async def test_keys_of_integrations_can_expire(start_hub: StartHub) -> None:
    """Its first key, and those that its developer or an admin makes; streams end with it, an earlier end is no end."""
    clock = FakeClock()
    hub = await start_hub(clock)
    end = {"seconds": clock.now() // 10**6 + 3_600}
    integration, first = await hub.register("TICKET_CREATED", key_expire_time=end)
    stream = await first.subscribe()
    assert stream.frames[0].ready.key_expire_time.seconds == end["seconds"]
    own = await ask(first, "DeveloperService/RotateOwnKey", expire_time=end)
    await ask(hub.caller(own.key.secret), "DirectoryService/ListScopes")
    lasting = await ask(hub.admin, "AdminService/RotateKey", integration_id=integration.integration_id, overlap={})
    assert not lasting.key.HasField("expire_time")
    await ask(hub.caller(lasting.key.secret), "DirectoryService/ListScopes")
    short = await ask(hub.admin, "AdminService/RotateKey", integration_id=integration.integration_id, expire_time=end)
    assert own.key.expire_time.seconds == short.key.expire_time.seconds == end["seconds"]
    holder = hub.caller(short.key.secret)
    stream = await holder.subscribe()
    clock.monotonic_offset += 3_601
    for one in live(hub):
        one.refresh()
    assert reason_of(await stream.ending()) == "KEY_EXPIRED"
    assert reason_of(await fails(ask(holder, "DirectoryService/ListScopes"))) == "KEY_EXPIRED"
    await ask(hub.caller(lasting.key.secret), "DirectoryService/ListScopes")
    past = {"seconds": 1}
    for call in (
        ask(hub.admin, "AdminService/RotateKey", integration_id=integration.integration_id, expire_time=past),
        hub.register("TICKET_CREATED", key_expire_time=past),
    ):
        assert reason_of(await fails(call)) == "INVALID_REQUEST"


async def test_no_secret_of_a_tail_or_a_rename_reaches_the_log(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an admin does to streams and keys is written down without the keys' texts."""
    written = log_to_memory(monkeypatch)
    hub = await start_hub()
    integration, _ = await hub.register("TICKET_CREATED")
    created = await ask(hub.admin, "AdminService/CreateServiceKey", role=1, display_name="old name")
    renamed = {"key_id": created.key.key_id, "display_name": "new name", "secret": created.key.secret}
    await ask(hub.admin, "AdminService/UpdateServiceKey", key=renamed)
    await hub.admin.subscribe(integration_id=integration.integration_id)
    entries = (await ask(hub.admin, "AdminService/ListAuditEntries")).entries
    for secret in (created.key.secret, hub.admin.key):
        assert secret not in written.getvalue()
        assert secret not in str(entries)

"""The key of a client: rotated without losing a subscription, never printed, sent through no unrequested proxy."""

import asyncio
import copy
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from tickets.hub.v1.admin_service_pb2 import RegisterIntegrationResponse, RevokeKeyRequest, RotateKeyRequest
from tickets.hub.v1.developer_service_pb2 import RotateOwnKeyResponse
from tickets.hub.v1.event_service_pb2 import EmitEventRequest
from tickets.hub.v1.event_service_pb2_grpc import EventServiceStub
from tickets.hub.v1.integration_pb2 import Key
from tickets_hub import AsyncClient, Client, HubCallError, Reconnecting, Start
from tickets_hub.key import ClientKey
from tickets_hub.transport import channel_credentials, channel_options

from hub.cli.connection import ConnectionOptions
from tests.client.test_client_aio import POLICY as QUICK
from tests.client.test_client_aio import ScriptedHub, hub
from tests.support.events import closed
from tests.support.processes import run_hub
from tests.support.real_hub import PATIENCE, POLICY, Reading, RealHub
from tests.support.scripted_hub import details, frame, ready

__all__ = ["hub"]

KEY = "tkt_integration_AbCdEfGhIjKl_0123456789abcdefghijABCDEFGHIJKLMN"
SECRET = KEY.split("_")[3]
ENDED = (grpc.StatusCode.UNAUTHENTICATED, details(16, "KEY_REVOKED"))


@pytest.fixture
def real(tmp_path: Path) -> Iterator[RealHub]:
    """A real hub with a data directory of its own."""
    started = RealHub(tmp_path)
    yield started
    started.close()


@pytest.mark.parametrize("overlap", [None, 0])
def test_a_subscription_survives_a_key_rotation(real: RealHub, overlap: float | None) -> None:
    """The stream continues with the old key, or resumes with the new one; no event is missing."""
    integration_id, key = real.register()
    client, bot = real.client(key), real.bot
    reading = Reading(client, auto_commit=True)
    bot.emit(closed("a"))
    assert reading.ids(1) == ["a"]
    new = client.rotate_key(overlap=overlap)
    assert new != key
    if overlap is None:
        admin, access = real.admin()
        revoking = RevokeKeyRequest(integration_id=integration_id, key_id=key.split("_")[2], reason="leaked")
        admin.RevokeKey(revoking, metadata=access.metadata, timeout=PATIENCE)
    broken = reading.notice(Reconnecting)
    assert isinstance(broken, Reconnecting)
    assert (broken.error.reason, broken.delay) == ("KEY_REVOKED", 0)
    bot.emit(closed("b"))
    assert reading.ids(1) == ["b"]
    reading.subscription.close()
    client.close()
    with pytest.raises(HubCallError, match="KEY_REVOKED"):
        next(real.client(key).subscribe())
    assert Reading(real.client(new), start=Start.earliest()).ids(2) == ["a", "b"]


async def test_a_subscription_of_the_asyncio_client_survives_a_key_rotation(real: RealHub) -> None:
    """The old key ends at once; commits continue with the new one."""
    _, key = real.register()
    async with AsyncClient(real.address, key, policy=POLICY) as client, client.subscribe(auto_commit=True) as events:
        reading = asyncio.create_task(anext(events))
        await asyncio.to_thread(real.bot.emit, closed("a"))
        while not reading.done():  # the stream begins with what comes once it is open
            await asyncio.to_thread(real.bot.emit, closed(""))
        await reading
        new = await client.rotate_key(overlap=0)
        await asyncio.to_thread(real.bot.emit, closed("last"))
        async with asyncio.timeout(PATIENCE):
            while (await anext(events)).id != "last":
                pass
            await client.commit(events.cursor)
    async with AsyncClient(real.address, new, policy=POLICY) as client:
        await asyncio.to_thread(real.bot.emit, closed("after"))
        async with asyncio.timeout(PATIENCE):
            assert (await anext(client.subscribe(start=Start.committed()))).id == "after"


def test_a_client_can_switch_to_a_key_that_was_rotated_elsewhere(real: RealHub) -> None:
    """Streams, calls and commits use it once the earlier one has ended."""
    integration_id, key = real.register()
    client = real.client(key)
    reading = Reading(client, auto_commit=True)
    admin, access = real.admin()
    rotated = admin.RotateKey(
        RotateKeyRequest(integration_id=integration_id), metadata=access.metadata, timeout=PATIENCE
    )
    client.use_key(rotated.key.secret)
    revoking = RevokeKeyRequest(integration_id=integration_id, key_id=key.split("_")[2], reason="leaked")
    admin.RevokeKey(revoking, metadata=access.metadata, timeout=PATIENCE)
    real.bot.emit(closed("a"))
    assert reading.ids(1) == ["a"]
    assert client.commit(reading.subscription.cursor).committed


async def test_streams_wait_for_a_rotation_in_progress(hub: ScriptedHub) -> None:
    """With overlap 0 the streams end before the new key arrives: the subscription must not give up."""
    async with AsyncClient(hub.address, "tkt_old", policy=QUICK) as client:
        subscription = client.subscribe()
        reading = asyncio.create_task(anext(subscription))
        access = subscription._access
        await access.rotating.acquire()
        (await hub.peer()).send(ready("c1"), ENDED)
        committing = asyncio.create_task(client.commit("c1"))
        await asyncio.wait({reading, committing}, timeout=0.05)
        client.use_key("tkt_new")
        access.rotating.release()
        again = await hub.peer()
        assert (again.metadata["authorization"], again.request.cursor) == ("Bearer tkt_new", "c1")
        again.send(frame("c2", "a"))
        assert await reading == closed("a")
        await committing


@pytest.mark.parametrize("version", [0, 1])
async def test_an_ended_key_is_not_retried(hub: ScriptedHub, version: int) -> None:
    """Without a newer key, or with another ended one, trying again cannot help."""
    hub.refusals = [ENDED] * (version + 1)
    async with AsyncClient(hub.address, "tkt_key", policy=QUICK) as client:
        if version:
            hub.blocked.clear()
        emitting = asyncio.create_task(client.emit(closed("a")))
        await asyncio.wait_for(hub.arrived.wait(), 10)
        if version:
            client.use_key("tkt_newer")
            hub.blocked.set()
        with pytest.raises(HubCallError, match="KEY_REVOKED"):
            await emitting
    assert len(hub.emitted) == version + 1


def shown(thing: Any) -> Iterator[str]:  # noqa: ANN401  anything that a developer prints
    """All that a debugger, a log line or a crash report would show of it, some levels deep."""
    yield from (repr(thing), str(thing), f"{thing}")
    for value in vars(thing).values() if hasattr(thing, "__dict__") else ():
        yield from (repr(value), repr(getattr(value, "__dict__", "")))


async def test_no_printed_object_shows_a_key(hub: ScriptedHub) -> None:
    """Clients, subscriptions, committers, keys, flags of the command line and messages show no key."""
    new = RotateOwnKeyResponse(key=Key(key_id="AbCdEfGhIjKl", secret=KEY), previous_keys=[Key(key_id="x", secret=KEY)])
    registered = RegisterIntegrationResponse(key=new.key)
    async with AsyncClient(hub.address, KEY, policy=QUICK, proxy=None) as tasks:
        with Client(hub.address, KEY, policy=QUICK) as threads:
            flags = ConnectionOptions("127.0.0.1:1", KEY, None, None, None, None, insecure=False, proxy=None)
            things: list[Any] = [tasks, threads, flags, ClientKey(KEY), new, new.key, registered, [new]]
            things += [tasks.subscribe(auto_commit=True), threads.subscribe(auto_commit=True)]
            things += [each._access for each in things[-2:]] + [each._committer for each in things[-2:]]
            found = [text for thing in things for text in shown(thing)]
    assert [text for text in found if SECRET in text] == []
    assert "tkt_integration_AbCdEfGhIjKl_..." in repr(ClientKey(KEY))
    assert 'key_id: "AbCdEfGhIjKl"' in repr(new)
    assert new.key.secret == copy.deepcopy(new).key.secret == pickle.loads(pickle.dumps(new)).key.secret == KEY  # noqa: S301  our own


def test_a_malformed_key_is_not_printed_either() -> None:
    """It may be a key that was copied badly."""
    assert "0123" not in repr(ClientKey("tkt_integration_0123456789"))
    assert "0123" not in repr(ClientKey("0123456789"))


class Listener:
    """A proxy that somebody's environment names: it notes what it is sent, and answers nothing."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"

    def heard(self, patience: float = 0.2) -> bytes:
        """What the first connection brought; empty where there is none for so many seconds."""
        self._server.settimeout(patience)
        try:
            connection, _ = self._server.accept()
        except TimeoutError:
            return b""
        with connection:
            return connection.recv(100)


@pytest.fixture
def listener() -> Iterator[Listener]:
    """A proxy."""
    proxy = Listener()
    yield proxy
    proxy._server.close()


def environment(proxy: Listener) -> dict[str, str]:
    """Every variable by which gRPC can be led to a proxy."""
    names = ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy")
    direct = {"GRPC_ADDRESS_HTTP_PROXY": proxy.url[7:], "GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES": "127.0.0.0/8"}
    return dict.fromkeys(names, proxy.url) | direct


async def test_clients_ignore_proxies_of_the_environment(
    hub: ScriptedHub, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GRPC would send even calls to 127.0.0.1 through such a proxy: both clients connect to the hub directly."""
    for name, value in environment(listener).items():
        monkeypatch.setenv(name, value)
    async with AsyncClient(hub.address, "tkt_key", policy=QUICK) as tasks:
        await tasks.emit(closed("a"))
    with Client(hub.address, "tkt_key", policy=QUICK) as threads:
        await asyncio.to_thread(threads.emit, closed("b"))
    assert [request.event.id for request in hub.emitted] == ["a", "b"]  # type: ignore[union-attr]  # single ones
    assert await asyncio.to_thread(listener.heard) == b""


async def test_the_command_line_ignores_proxies_of_the_environment(
    hub: ScriptedHub, listener: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`hub emit` goes to the hub in such an environment; a key in plaintext goes through no proxy, asked or not."""
    for name, value in environment(listener).items():
        monkeypatch.setenv(name, value)
    words = ("emit", "ticket_closed", "--guild", "41", "--address", hub.address)
    emitted = await run_hub(*words, cwd=tmp_path, HUB_BOT_KEY="tkt_key")
    assert (emitted.code, len(hub.emitted)) == (0, 1), emitted.err
    refused = await run_hub(*words, "--proxy", listener.url, cwd=tmp_path, HUB_BOT_KEY="tkt_key")
    assert "the proxy could read the key" in refused.complaint
    wrong = await run_hub(*words, "--proxy", "https://proxy", cwd=tmp_path, HUB_BOT_KEY="tkt_key")
    assert wrong.complaint.startswith("proxy: must be host:port")
    assert await asyncio.to_thread(listener.heard) == b""


@pytest.mark.parametrize("through", ["http://", ""])
async def test_a_given_proxy_is_used(hub: ScriptedHub, listener: Listener, through: str) -> None:
    """By both clients, with TLS inside: the proxy cannot read the key."""
    proxy = through + listener.url[7:]
    secured = {"credentials": grpc.ssl_channel_credentials(), "policy": QUICK, "proxy": proxy}
    with Client(hub.address, "tkt_key", **secured) as threads:  # type: ignore[arg-type]  # a table of arguments
        call = EventServiceStub(threads.channel).EmitEvent.future(EmitEventRequest(), timeout=PATIENCE)
        assert (await asyncio.to_thread(listener.heard, PATIENCE)).startswith(f"CONNECT {hub.address}".encode())
        call.cancel()
    async with AsyncClient(hub.address, "tkt_key", **secured) as tasks:  # type: ignore[arg-type]  # the same
        tasks.channel.get_state(try_to_connect=True)
        assert (await asyncio.to_thread(listener.heard, PATIENCE)).startswith(f"CONNECT {hub.address}".encode())


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "asked",
    [
        {"proxy": "proxy:3128"},
        {"options": [("grpc.enable_http_proxy", 1)]},
        {"options": [("grpc.address_http_proxy_enabled_addresses", "127.0.0.0/8")]},
    ],
)
def test_a_proxy_needs_tls_or_an_explicit_plaintext(kind: type, asked: dict[str, Any]) -> None:
    """However the proxy was given."""
    with pytest.raises(ValueError, match="the proxy could read the key"):
        kind("127.0.0.1:1", "tkt_key", **asked)
    assert kind("127.0.0.1:1", "tkt_key", insecure=True, **asked)


def test_plaintext_beyond_loopback_must_be_explicit() -> None:
    """TLS is the default there, so that a forgotten flag sends no key."""
    options = channel_options(())
    assert channel_credentials("127.0.0.1:1", None, options, insecure=False) is None
    assert channel_credentials("10.0.0.1:1", None, options, insecure=False) is not None
    assert channel_credentials("10.0.0.1:1", None, options, insecure=True) is None


@pytest.mark.parametrize(
    "proxy", ["", "proxy", "https://proxy:1", "socks5://proxy:1", "http://", "proxy:port", "a b:1"]
)
def test_an_invalid_proxy_is_refused(proxy: str) -> None:
    """GRPC itself would log it and connect without one."""
    with pytest.raises(ValueError, match="proxy: must be host:port"):
        Client("10.0.0.1:1", "tkt_key", proxy=proxy)


def test_a_zero_overlap_reaches_the_hub() -> None:
    """Zero is not the same as unset."""
    from tickets_hub.requests import rotate_request  # noqa: PLC0415  internal to the clients

    assert not rotate_request(None).HasField("overlap")
    assert rotate_request(0).HasField("overlap")
    assert rotate_request(1.5).overlap == Duration(seconds=1, nanos=500_000_000)

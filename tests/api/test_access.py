"""Access: each method with each role, each kind of wrong key, and what needs no key."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

from hub.api.gate import Gate
from hub.api.guards import Guards
from hub.api.reflection import REFLECTION, add_reflection
from hub.api.throttle import Throttle
from hub.control import keys
from hub.control.token_buckets import MAX_NAMES
from hub.crypto import Mac
from hub.model import Role
from hub.permissions import SERVICES
from tests.support.calls import ask, detail_of, fails, info_of, reason_of, send
from tests.support.hubs import Caller, FakeClock, RunningHub, StartHub

ALLOWED = """
    EventService/EmitEvent              b--    EventService/BatchEmitEvents        b--
    EventService/Subscribe              -ia    EventService/CommitCursor           -i-
    EventService/ListOwnSubscriptions   -i-    EventService/DeleteSubscription     -ia
    AdminService/RegisterIntegration    --a    AdminService/GetIntegration         --a
    AdminService/ListIntegrations       --a    AdminService/UpdateIntegration      --a
    AdminService/ApproveIntegration     --a    AdminService/RejectIntegration      --a
    AdminService/SuspendIntegration     --a    AdminService/ResumeIntegration      --a
    AdminService/DeleteIntegration      --a    AdminService/SetScopes              --a
    AdminService/RotateKey              --a    AdminService/RevokeKey              --a
    AdminService/ListKeys               --a    AdminService/CreateServiceKey       --a
    AdminService/BlockDeveloper         --a    AdminService/BatchBlockDevelopers   --a
    AdminService/UnblockDeveloper       --a    AdminService/ListBlockedDevelopers  --a
    AdminService/GetPrivilegeReport     --a    AdminService/ListSubscriptions      --a
    AdminService/ListAuditEntries       --a    AdminService/UpdateServiceKey       --a
    AdminService/EndStream              --a
    AdminService/WatchHub               --a
    DeveloperService/GetOwnIntegration  bi-    DeveloperService/ListOwnIntegrations bi-
    DeveloperService/UpdateProfile      bi-    DeveloperService/RotateOwnKey       bi-
    DeveloperService/RevokeOwnKey       bi-    DeveloperService/ListOwnKeys        bi-
    DeveloperService/RequestScopes      bi-    DeveloperService/PreviewEvent       bia
    DeveloperService/SendTestEvent      bia
    DirectoryService/ListScopes         bia    DirectoryService/FindIntegrations   bia
    DirectoryService/SubmitApplication  b-a    DirectoryService/InstallIntegration b--
    DirectoryService/UninstallIntegration b--  DirectoryService/ListInstallations  b-a
    DirectoryService/GetDirectoryEntry  bia    DirectoryService/ListGuildIntegrations b-a
    DirectoryService/SetGuildSharing    b--
    PrivacyService/EraseUser            b-a    PrivacyService/EraseGuild           b-a
    PrivacyService/GetErasure           b-a    PrivacyService/ListErasures         b-a
    PrivacyService/ExportSubject        b-a    PrivacyService/ListDisclosures      b-a
    WebhookService/CreateEndpoint       bia    WebhookService/UpdateEndpoint       bia
    WebhookService/GetEndpoint          bia    WebhookService/ListEndpoints        bia
    WebhookService/DeleteEndpoint       bia    WebhookService/VerifyEndpoint       bia
    WebhookService/PauseEndpoint        bia    WebhookService/ResumeEndpoint       bia
    WebhookService/DisableEndpoint      --a    WebhookService/RotateEndpointSecret bia
    WebhookService/RewindEndpoint       bia    WebhookService/ListAttempts         bia
"""
"""Who may call what, written by hand: b(ot), i(ntegration), a(dmin). A method that is added needs its place here."""

TABLE = dict(zip(ALLOWED.split()[::2], ALLOWED.split()[1::2], strict=True))
NO_MESSAGE = b"\xff"
"""What no method takes: a call that is let in fails by it, and changes nothing."""


def test_the_access_table_lists_every_method() -> None:
    """A new method needs a row here that says who may call it."""
    served = {f"{service.name}/{method.name}" for service in SERVICES for method in service.methods}
    assert set(TABLE) == served


async def test_each_method_admits_the_roles_in_the_table_and_no_others(start_hub: StartHub) -> None:
    """Every role, and a caller without a key, calls every method of every service."""
    hub = await start_hub(max_failed_authentications=10_000)
    _, reader = await hub.register("TICKET_CREATED")
    callers = {"b": hub.bot, "i": reader, "a": hub.admin}
    got = {}
    for method in TABLE:
        errors = {letter: await fails(send(caller, method, NO_MESSAGE)) for letter, caller in callers.items()}
        assert {reason_of(error) for error in errors.values()} <= {"INVALID_REQUEST", "ROLE_NOT_ALLOWED"}
        let_in = {letter for letter, error in errors.items() if reason_of(error) == "INVALID_REQUEST"}
        got[method] = "".join(letter if letter in let_in else "-" for letter in "bia")
        assert reason_of(await fails(send(hub.caller(""), method, NO_MESSAGE))) == "KEY_MISSING"
    assert got == TABLE


@asynccontextmanager
async def side_door(hub: RunningHub, *, reflection: bool = False) -> AsyncIterator[str]:
    """The address of another server behind the gate of a hub, with methods that the contract does not know."""
    settings = hub.settings.model_copy(update={"listen": "0.0.0.0:0"})
    gate = Gate(Guards(hub.hub.registry, settings, FakeClock()), {}, settings)
    server = grpc.aio.server(interceptors=(gate,), options=[("grpc.so_reuseport", 0)])

    async def answer(request: Any, context: Any) -> bytes:  # noqa: ANN401  whatever gRPC brings
        del request, context
        return b"let in"

    async def answers(request: Any, context: Any) -> AsyncIterator[bytes]:  # noqa: ANN401  whatever gRPC brings
        del request, context
        yield b"let in"

    handlers: dict[str, Any] = {
        "One": grpc.unary_unary_rpc_method_handler(answer),
        "Stream": grpc.unary_stream_rpc_method_handler(answers),
        "Upload": grpc.stream_unary_rpc_method_handler(answer),
        "Both": grpc.stream_stream_rpc_method_handler(answers),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("some.Service", handlers),))
    if reflection:
        add_reflection(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@pytest.mark.parametrize("method", ["One", "Stream", "Upload", "Both"])
async def test_a_method_without_an_access_rule_cannot_be_called(hub: RunningHub, method: str) -> None:
    """Deny by default, whatever the shape of the method and the role of the caller."""
    async with side_door(hub) as address, grpc.aio.insecure_channel(address) as channel:
        for caller in (hub.bot, hub.admin):  # the request goes with the call: a refusal may come before a later one
            answers_once = method in {"One", "Upload"}
            kind: Any = channel.unary_unary if answers_once else channel.unary_stream
            call = kind(f"/some.Service/{method}")(b"x", metadata=caller.metadata)
            error = await fails(call if answers_once else call.read())
            assert error.code() in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED}


def texts_without_a_key(key: str) -> dict[str, list[tuple[str, str]]]:
    """Metadata that holds no key."""
    return {
        "none": [],
        "no scheme": [("authorization", key)],
        "another scheme": [("authorization", f"Basic {key}")],
        "nothing after it": [("authorization", "Bearer ")],
        "another name": [("x-authorization", f"Bearer {key}")],
    }


def texts_with_a_wrong_key(key: str) -> list[str]:
    """Keys that are nearly right."""
    role, key_id, secret = key.split("_")[1:]
    stranger = keys.mint(Role.BOT, Mac(b"another hub's pepper"), 1).text
    body = f"tkt_{role}_{key_id}_{'0' * keys.SECRET_LENGTH}"
    return [
        "x",
        key[:-1],
        key + "0",
        key.lower(),
        key.replace("tkt_", "", 1),
        f"tkt_admin_{key_id}_{secret}",
        f"{key} {key}",
        stranger,
        body + keys.checksum(body),
    ]


async def test_missing_malformed_unknown_and_forged_keys_are_refused(start_hub: StartHub) -> None:
    """A missing key gets KEY_MISSING; malformed, unknown and forged keys all get the same text."""
    hub = await start_hub(max_failed_authentications=10_000)
    call: Any = hub.channel.unary_unary("/tickets.hub.v1.DirectoryService/ListScopes", None, None)
    for metadata in texts_without_a_key(hub.bot.key).values():
        assert reason_of(await fails(call(b"", metadata=metadata))) == "KEY_MISSING"
    told = set()
    for wrong in texts_with_a_wrong_key(hub.bot.key):
        error = await fails(call(b"", metadata=[("authorization", f"Bearer {wrong}")]))
        assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAUTHENTICATED, "KEY_UNKNOWN")
        told.add((error.details(), str(info_of(error))))
    assert len(told) == 1
    await call(b"", metadata=[("authorization", f"bearer  {hub.bot.key} ")])


def test_the_key_checksum_detects_every_typo_and_every_swap() -> None:
    """One changed character, or two swapped neighbours, is detected without a look-up."""
    text = keys.mint(Role.INTEGRATION, Mac(b"pepper"), 1).text
    assert keys.read_id(text) == text.split("_")[2]
    for at in range(len(text)):
        for other in ("0", "a", "Z", "_", "-", "\n"):
            assert other == text[at] or keys.read_id(text[:at] + other + text[at + 1 :]) is None
        swapped = text[:at] + text[at : at + 2][::-1] + text[at + 2 :]
        assert swapped == text or keys.read_id(swapped) is None


async def test_a_key_expires_by_elapsed_time_not_by_the_wall_clock(start_hub: StartHub) -> None:
    """A key of one hour works while the wall clock jumps a day, and is expired once an hour has passed."""
    clock = FakeClock()
    hub = await start_hub(clock)
    expire_time = {"seconds": clock.now() // 10**6 + 3_600}
    created = await ask(
        hub.admin, "AdminService/CreateServiceKey", role=1, display_name="short", expire_time=expire_time
    )
    short = hub.caller(created.key.secret)
    clock.wall_offset = 24 * 3_600 * 10**6
    await ask(short, "DirectoryService/ListScopes")
    clock.monotonic_offset = 3_601
    error = await fails(ask(short, "DirectoryService/ListScopes"))
    assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAUTHENTICATED, "KEY_EXPIRED")
    assert info_of(error).metadata["expire_time"] == created.key.expire_time.ToJsonString()


async def test_guessing_is_throttled_and_a_valid_key_never_is(start_hub: StartHub) -> None:
    """After the allowed guesses a minute the address has to wait; only time restores its budget."""
    clock = FakeClock()
    hub = await start_hub(clock, max_failed_authentications=3)
    guesses = [hub.caller("tkt_bot_guess"), hub.caller("")]
    said = [reason_of(await fails(ask(guesses[turn % 2], "DirectoryService/ListScopes"))) for turn in range(6)]
    assert said == ["KEY_UNKNOWN", "KEY_MISSING", "KEY_UNKNOWN", *["AUTH_THROTTLED"] * 3]
    for _ in range(20):
        await ask(hub.bot, "DirectoryService/ListScopes")
    error = await fails(ask(guesses[0], "DirectoryService/ListScopes"))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    wait = detail_of(error, error_details_pb2.RetryInfo).retry_delay.ToTimedelta().total_seconds()
    assert 0 < wait <= 20
    clock.monotonic_offset += wait
    assert reason_of(await fails(ask(guesses[0], "DirectoryService/ListScopes"))) == "KEY_UNKNOWN"
    assert reason_of(await fails(ask(guesses[0], "DirectoryService/ListScopes"))) == "AUTH_THROTTLED"


def test_each_address_is_throttled_separately_in_bounded_memory() -> None:
    """One address that guesses does not lock out another; a flood of addresses does not fill the memory."""
    throttle = Throttle(1, FakeClock())
    assert not throttle.wait("192.0.2.1")
    assert throttle.wait("192.0.2.1") > 0
    assert not throttle.wait("192.0.2.2")
    for number in range(MAX_NAMES + 10):
        throttle.wait(f"2001:db8:{number:x}::/64")
    assert len(throttle._guesses._buckets) <= MAX_NAMES


async def test_a_caller_with_a_revoked_key_is_not_throttled_as_a_guesser(start_hub: StartHub) -> None:
    """However often it calls, the reason stays the same."""
    hub = await start_hub(max_failed_authentications=1)
    integration, reader = await hub.register("TICKET_CREATED")
    await ask(hub.admin, "AdminService/RotateKey", integration_id=integration.integration_id, overlap={})
    said = {reason_of(await fails(ask(reader, "DirectoryService/ListScopes"))) for _ in range(5)}
    assert said == {"KEY_REVOKED"}


async def test_health_checks_need_no_key(hub: RunningHub) -> None:
    """A load balancer has no key: the hub and each of its services are SERVING."""
    stub: Any = health_pb2_grpc.HealthStub(hub.channel)
    for service in ("", *(service.full_name for service in SERVICES)):
        reply = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        assert reply.status == health_pb2.HealthCheckResponse.SERVING


async def services_by_reflection(address: str, version: str, caller: Caller) -> set[str]:
    """What a server lists by reflection, asked as a caller."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = channel.unary_stream(  # sends the request with the call: a refusal may come before a later one
            f"/{version}/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        call = stub(reflection_pb2.ServerReflectionRequest(list_services=""), metadata=caller.metadata)
        reply = await call.read()
        return {service.name for service in reply.list_services_response.service}


@pytest.mark.parametrize("version", REFLECTION)
async def test_reflection_needs_a_key_except_on_loopback(hub: RunningHub, version: str) -> None:
    """On loopback reflection needs no key; elsewhere any valid key will do, whatever its role."""
    _, reader = await hub.register("TICKET_CREATED")
    everything = {service.full_name for service in SERVICES}
    nobody = hub.caller("")
    assert everything <= await services_by_reflection(hub.address, version, nobody)
    async with side_door(hub, reflection=True) as address:
        for caller in (hub.bot, hub.admin, reader):
            assert everything <= await services_by_reflection(address, version, caller)
        for wrong, reason in ((nobody, "KEY_MISSING"), (hub.caller("x"), "KEY_UNKNOWN")):
            error = await fails(services_by_reflection(address, version, wrong))
            assert (error.code(), reason_of(error)) == (grpc.StatusCode.UNAUTHENTICATED, reason)

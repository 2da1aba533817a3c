"""grpcurl itself against a running hub, as an admin uses it: by reflection, and by the published descriptor set."""

import asyncio
import json
import re
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2

from tests.support.hubs import PATIENCE, REGISTRATION, RunningHub
from tests.support.programs import needs

CONTRACT = Path(__file__).parents[1] / "generated" / "tickets_hub.binpb"
SERVICES = {f"tickets.hub.v1.{name}Service" for name in ("Admin", "Directory", "Event")}


class Grpcurl:
    """The program, pointed at a hub."""

    def __init__(self, program: str, address: str) -> None:
        self._program = program
        self._address = address

    async def begin(self, *words: str, key: str = "", body: dict[str, Any] | None = None, by: str = "") -> Process:
        """Start it: its words after the address, a request, and how it learns of the contract."""
        flags = ["-plaintext", *by.split()]
        flags += ["-H", f"authorization: Bearer {key}"] if key else []
        flags += ["-d", json.dumps(body)] if body is not None else []
        return await asyncio.create_subprocess_exec(
            self._program, *flags, self._address, *words, stdin=PIPE, stdout=PIPE, stderr=PIPE
        )

    async def __call__(self, *words: str, **how: Any) -> tuple[int, str, str]:  # noqa: ANN401  as `begin` has them
        """Run it to its end: its status, what it printed, its complaints."""
        process = await self.begin(*words, **how)
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def call(self, method: str, key: str, body: dict[str, Any], by: str = "") -> Any:  # noqa: ANN401  JSON
        """Call a method, and read its answer."""
        code, out, err = await self(f"tickets.hub.v1.{method}", key=key, body=body, by=by)
        assert (code, err) == (0, "")
        return read(out)

    @asynccontextmanager
    async def stream(self, key: str, **request: Any) -> AsyncIterator["Frames"]:  # noqa: ANN401  its fields
        """Subscribe, for as long as the context lasts."""
        process = await self.begin("tickets.hub.v1.EventService/Subscribe", key=key, body=request)
        try:
            yield Frames(process)
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()


class Frames:
    """What a streaming grpcurl prints: one JSON object after another, over many lines."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def next(self) -> dict[str, Any]:
        """The next frame."""
        assert self.process.stdout is not None
        text = ""
        async with asyncio.timeout(PATIENCE):
            while line := (await self.process.stdout.readline()).decode():
                text += line
                if line.rstrip() == "}":
                    return dict(read(text))
        raise AssertionError(f"the stream ended: {text}")

    async def complaint(self) -> str:
        """What grpcurl says once the stream has failed."""
        async with asyncio.timeout(PATIENCE):
            _, err = await self.process.communicate()
        assert self.process.returncode
        return err.decode()


def read(text: str) -> Any:  # noqa: ANN401  JSON
    """An answer; its names as in the contract, whichever of the two spellings this grpcurl prints."""

    def spelt(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {re.sub("[A-Z]", lambda capital: f"_{capital[0].lower()}", name): value for name, value in pairs}

    return json.loads(text, object_pairs_hook=spelt)


@pytest.fixture
def grpcurl(hub: RunningHub) -> Grpcurl:
    """The program, where there is one, and a hub for it."""
    return Grpcurl(needs("grpcurl"), hub.address)


async def test_grpcurl_lists_and_describes_by_reflection(grpcurl: Grpcurl) -> None:
    """Without any file grpcurl finds the services, the permission table and its options."""
    code, out, err = await grpcurl("list")
    assert (code, err) == (0, "")
    assert SERVICES | {"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} <= set(out.split())
    code, out, err = await grpcurl("describe", "tickets.hub.v1.AdminService")
    assert (code, err) == (0, "")
    assert "rpc RotateKey ( .tickets.hub.v1.RotateKeyRequest ) returns ( .tickets.hub.v1.RotateKeyResponse )" in out
    assert "ROLE_ADMIN" in out
    code, out, err = await grpcurl("describe", "tickets.hub.v1.AdminService.RotateKey")
    assert (code, err) == (0, "")
    assert "ROLE_ADMIN" in out
    assert (await grpcurl("describe", "tickets.hub.v1.AdminService.Nothing"))[0] == 1
    _, out, _ = await grpcurl("describe", "tickets.hub.v1.Scope")
    assert "SCOPE_MEMBER_VERIFIED_IDENTITY = 6" in out
    assert 'name: "member_verified_identity"' in out


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_both_versions_of_reflection_answer(hub: RunningHub, version: str) -> None:
    """Tools of either age find the services: the messages are the same, the service's name is not."""
    listing: Any = hub.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    call = listing(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=PATIENCE)
    answer = await call.read()
    assert {service.name for service in answer.list_services_response.service} >= SERVICES
    assert await call.read() is grpc.aio.EOF


async def test_an_admin_works_with_grpcurl(hub: RunningHub, grpcurl: Grpcurl) -> None:
    """Register, rotate, list: with requests and answers as JSON, as the README shows them."""
    key = hub.admin.key
    scopes = [{"scope": "SCOPE_TICKET_CREATED", "justification": "to count"}]
    made = await grpcurl.call("AdminService/RegisterIntegration", key, {**REGISTRATION, "scopes": scopes})
    one = {"integration_id": made["integration"]["integration_id"]}
    assert made["integration"]["state"] == "INTEGRATION_STATE_ACTIVE"
    assert made["key"]["secret"].startswith("tkt_integration_")
    rotated = await grpcurl.call("AdminService/RotateKey", key, {**one, "overlap": "0s"})
    assert [old["state"] for old in rotated["previous_keys"]] == ["KEY_STATE_REVOKED"]
    update = {"integration": {**one, "display_name": "New"}}
    assert (await grpcurl.call("AdminService/UpdateIntegration", key, update))["integration"]["display_name"] == "New"
    listed = await grpcurl.call("AdminService/ListIntegrations", key, {"filter": "state = ACTIVE"})
    assert [each["display_name"] for each in listed["integrations"]] == ["New"]


async def test_grpcurl_shows_a_readable_failure(hub: RunningHub, grpcurl: Grpcurl) -> None:
    """A refused call ends with its status, the sentence, and the details that name the field."""
    body = {"integration_id": "?"}
    code, _, err = await grpcurl("tickets.hub.v1.AdminService/GetIntegration", key=hub.admin.key, body=body)
    assert code == 64 + 3
    assert "Code: InvalidArgument" in err
    assert "INVALID_REQUEST" in err
    assert '"field": "integration_id"' in err
    code, _, err = await grpcurl("tickets.hub.v1.AdminService/ListIntegrations", body={})
    assert (code, "KEY_MISSING" in err) == (64 + 16, True)


async def test_an_integration_streams_with_grpcurl(hub: RunningHub, grpcurl: Grpcurl) -> None:
    """A stream is Ready, brings an event as it is emitted, and ends with the reason when its key is rotated away."""
    integration, reader = await hub.register("MEMBER_VERIFIED")
    async with grpcurl.stream(reader.key, latest={}) as frames:
        ready = (await frames.next())["ready"]
        assert (ready["effective_scopes"], ready["withheld_fields"]) == (
            ["SCOPE_MEMBER_VERIFIED"],
            ["member_verified.user_id"],
        )
        event = {"id": "v1", "guild_id": "41", "member_verified": {"user_id": "7"}}
        await grpcurl.call("EventService/EmitEvent", hub.bot.key, {"event": event})
        [got] = (await frames.next())["events"]
        assert (got["id"], got["guild_id"], got["member_verified"]) == ("v1", "41", {})
        rotation = {"integration_id": integration.integration_id, "overlap": "0s"}
        await grpcurl.call("AdminService/RotateKey", hub.admin.key, rotation)
        assert "KEY_REVOKED" in await frames.complaint()


async def test_the_descriptor_set_takes_the_place_of_reflection(hub: RunningHub, grpcurl: Grpcurl) -> None:
    """With the published descriptor set alone grpcurl knows every service and calls it."""
    by = f"-use-reflection=false -protoset {CONTRACT}"
    code, out, err = await grpcurl("list", by=f"-protoset {CONTRACT}")
    assert (code, err) == (0, "")
    assert set(out.split()) >= SERVICES
    scopes = await grpcurl.call("DirectoryService/ListScopes", hub.bot.key, {}, by=by)
    assert "ticket_created" in [scope["name"] for scope in scopes["scopes"]]

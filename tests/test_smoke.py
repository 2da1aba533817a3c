"""The main path: the bot emits, an integration receives what its scopes permit, an admin changes them."""

import grpc
from google.protobuf.duration_pb2 import Duration
from tickets.hub.v1 import admin_service_pb2, event_pb2

from tests.support.calls import reason_of
from tests.support.hubs import RunningHub


async def test_an_integration_gets_exactly_what_it_was_granted(hub: RunningHub) -> None:
    """A verification arrives without the user where the identity scope is missing, until the key is rotated away."""
    integration, reader = await hub.register("MEMBER_VERIFIED")
    stream = await reader.subscribe()
    await hub.emit(event_pb2.Event(id="t1", guild_id="41", ticket_created=event_pb2.TicketCreated(creator_user_id="7")))
    await hub.emit(event_pb2.Event(id="v1", guild_id="41", member_verified=event_pb2.MemberVerified(user_id="7")))
    [event] = await stream.events(1)
    assert (event.id, event.guild_id, event.member_verified.HasField("user_id")) == ("v1", "41", False)

    request = admin_service_pb2.RotateKeyRequest(integration_id=integration.integration_id, overlap=Duration())
    await hub.admin.call("AdminService/RotateKey", request)
    ending = await stream.ending()
    assert (ending.code(), reason_of(ending)) == (grpc.StatusCode.UNAUTHENTICATED, "KEY_REVOKED")

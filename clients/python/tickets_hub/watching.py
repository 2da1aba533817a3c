"""The status of a hub, for an admin's client."""

from collections.abc import Iterator

import grpc
from google.protobuf.duration_pb2 import Duration

from tickets_hub.sync_client import Client
from tickets_hub.transport import failure_of
from tickets_hub.v1.admin_service_pb2_grpc import AdminServiceStub
from tickets_hub.v1.hub_status_pb2 import HubStatus, WatchHubRequest


def watch_hub(client: Client, interval: float) -> Iterator[HubStatus]:
    """The messages of WatchHub, one every `interval` seconds, until the hub ends them.

    Raises:
        HubCallError: the hub refuses, ends or is not there.
    """
    length = Duration()
    length.FromMilliseconds(round(interval * 1_000))
    call = AdminServiceStub(client.channel).WatchHub(WatchHubRequest(interval=length), metadata=client.metadata)
    try:
        yield from call
    except grpc.RpcError as error:
        raise failure_of(error) from None
    finally:
        call.cancel()

"""What both clients need of gRPC: how to reach the hub, how to show the key, how to read a failure.

Lives here: channel options, credentials, metadata. Must not know streams, retries, threads or tasks.
"""

import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any, cast

import grpc
from tickets.hub.v1.event_service_pb2 import Gap

from hub.client.failure import HubCallError
from hub.client.session import Notice, Reconnecting

logger = logging.getLogger("hub.client")

MIB = 1024 * 1024

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # A peer that is gone without a word is noticed after 25 s, streams or not.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Without this one the answer to a ping may take a minute: measured, 80 s in all on a frozen connection.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A frame is 1 MiB, or one event if that is larger; and its envelope.
    ("grpc.max_receive_message_length", 4 * MIB),
    # The channel's own patience grows to 2 minutes unless told otherwise: longer than ours, it would fail every
    # attempt of ours without trying.
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 5_000),
)

LAST_COMMITS = 2.0
"""Seconds that closing a client waits for what ``auto_commit`` still has to send."""

Options = Sequence[tuple[str, Any]]
KeyMetadata = tuple[tuple[str, str | bytes], ...]


def is_loopback(target: str) -> bool:
    """Whether a target ("127.0.0.1:50051", "unix:/run/hub") never leaves this machine."""
    return re.match(r"(unix:|(ipv[46]:)?(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?$)", target) is not None


def channel_options(wanted: Options) -> Options:
    """Ours and the caller's, each once: of two values for one name gRPC takes the first without a word."""
    return list({**dict(CHANNEL_OPTIONS), **dict(wanted)}.items())


def channel_credentials(
    target: str, credentials: grpc.ChannelCredentials | None, *, insecure: bool
) -> grpc.ChannelCredentials | None:
    """What secures the channel; None: nothing.

    Plaintext is for loopback, or where ``insecure`` says so: a key sent in plaintext is everyone's. Elsewhere the
    default is TLS with the authorities that gRPC trusts.
    """
    if credentials is not None:
        return credentials
    return None if insecure or is_loopback(target) else grpc.ssl_channel_credentials()


def tls(
    authority: bytes | None = None, certificate: bytes | None = None, key: bytes | None = None
) -> grpc.ChannelCredentials:
    """``credentials`` for a client, of PEM texts.

    Args:
        authority: who signed the hub's certificate; None = one of the authorities that gRPC trusts.
        certificate: the client's own, with ``key``, for a hub that asks for it (mTLS).
        key: the private key of ``certificate``.
    """
    return grpc.ssl_channel_credentials(authority, key, certificate)


def key_metadata(key: str) -> KeyMetadata:
    """The metadata that every call carries. ValueError for a key that is none, so that nobody sends an empty one."""
    if not key or not key.isascii() or not key.isprintable():
        raise ValueError("the key is empty, or holds line breaks or other characters that no key has")
    return (("authorization", f"Bearer {key}"),)


def failure_of(error: grpc.RpcError) -> HubCallError:
    """What a call of either client ended with."""
    # The stubs give sync's named pairs only; aio has plain pairs. Both are pairs.
    trailers = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    status = next((value for key, value in trailers if key == "grpc-status-details-bin"), None)
    return HubCallError.decode(error.code().name, error.details() or "", status if isinstance(status, bytes) else None)


def clean_end() -> HubCallError:
    """What a stream ended with that ended without an error."""
    return HubCallError("OK", "", "the hub ended the stream")


def closed_error() -> HubCallError:
    """What calls of a closed client end with."""
    return HubCallError("CANCELLED", "", "this client is closed")


def log_notice(notice: Notice) -> None:
    """What ``on_notice`` does unless given: a warning in the log ``hub.client`` for what a developer has to know."""
    if isinstance(notice, Reconnecting):
        logger.warning("the stream broke, trying again in %.1f s: %s", notice.delay, notice.error)
    elif isinstance(notice, Gap):
        between = (notice.from_time.ToJsonString(), notice.to_time.ToJsonString())
        logger.warning("events between %s and %s are not kept any more", *between)

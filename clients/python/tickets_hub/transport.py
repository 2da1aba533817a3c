"""Channel options, credentials, proxies and failures: the part of gRPC that both clients share."""

import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any, cast

import grpc

from tickets_hub.failure import HubCallError
from tickets_hub.session import Notice, Reconnecting
from tickets_hub.v1.event_service_pb2 import Erased, Gap

logger = logging.getLogger("tickets_hub")

MIB = 1024 * 1024

CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    # A peer that is gone without a word is noticed after 25 s, streams or not.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # Without this one the answer to a ping may take a minute: measured, 80 s in all on a frozen connection.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # A frame is 1 MiB, or one event if that is larger; and its envelope.
    ("grpc.max_receive_message_length", 4 * MIB),
    # The channel's own backoff grows to 2 minutes by default: longer than ours, it would fail every
    # attempt of ours without trying.
    ("grpc.initial_reconnect_backoff_ms", 250),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # gRPC sends even what goes to 127.0.0.1 to the proxy of http_proxy or GRPC_ADDRESS_HTTP_PROXY, the key with it.
    ("grpc.enable_http_proxy", 0),
    ("grpc.address_http_proxy_enabled_addresses", ""),
)

LAST_COMMITS = 2.0
"""Seconds that closing a client waits for what ``auto_commit`` still has to send."""

LAST_EMITS = 2.0
"""Seconds that closing a client waits, by default, for the events that are still to be sent."""

Options = Sequence[tuple[str, Any]]


def is_loopback(target: str) -> bool:
    """Whether a target ("127.0.0.1:50051", "unix:/run/hub") never leaves this machine."""
    return re.match(r"(unix:|(ipv[46]:)?(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?$)", target) is not None


def channel_options(wanted: Options, proxy: str | None = None) -> Options:
    """Ours and the caller's, each once: of two values for one name gRPC takes the first without a word.

    Args:
        wanted: the caller's options; they win.
        proxy: the HTTP proxy to connect through. ValueError for a text that names none.
    """
    through = {"grpc.enable_http_proxy": 1, "grpc.http_proxy": proxy_url(proxy)} if proxy is not None else {}
    return list({**dict(CHANNEL_OPTIONS), **through, **dict(wanted)}.items())


def proxy_url(proxy: str) -> str:
    """An HTTP proxy as gRPC wants it named: "proxy:3128" or "http://user:password@proxy:3128"."""
    url = proxy if "://" in proxy else f"http://{proxy}"
    if not re.fullmatch(r"http://([^/@\s]+@)?(\[[0-9a-fA-F:.]+\]|[^:/@\[\]\s]+):\d{1,5}/?", url):
        raise ValueError("proxy: must be host:port or http://host:port, such as proxy.example.com:3128")
    return url


def channel_credentials(
    target: str, credentials: grpc.ChannelCredentials | None, options: Options, *, insecure: bool
) -> grpc.ChannelCredentials | None:
    """The credentials of the channel; None: plaintext.

    Plaintext is for loopback, or where ``insecure`` says so: everyone on the way reads a key that is sent in plaintext.
    Elsewhere the default is TLS with the authorities that gRPC trusts. ValueError where a key in plaintext would go
    through a proxy.
    """
    if credentials is not None or insecure:
        return credentials
    if not is_loopback(target):
        return grpc.ssl_channel_credentials()
    if _uses_proxy(options):
        raise ValueError(
            f"'{target}' is reached in plaintext, and the proxy could read the key: connect without the proxy, give "
            "credentials for TLS, or allow it with insecure"
        )
    return None


def _uses_proxy(options: Options) -> bool:
    chosen = dict(options)
    return bool(chosen["grpc.enable_http_proxy"] or chosen["grpc.address_http_proxy_enabled_addresses"])


def tls(
    authority: bytes | None = None, certificate: bytes | None = None, key: bytes | None = None
) -> grpc.ChannelCredentials:
    """``credentials`` for a client, of PEM texts.

    Args:
        authority: the one that signed the hub's certificate; None = one that gRPC trusts.
        certificate: the client's own, with ``key``, for a hub that asks for it (mTLS).
        key: the private key of ``certificate``.
    """
    return grpc.ssl_channel_credentials(authority, key, certificate)


def failure_of(error: grpc.RpcError) -> HubCallError:
    """The failure of a call of either client."""
    # The stubs give sync's named pairs only; aio has plain pairs. Both are pairs.
    trailers = cast("Iterable[tuple[str, str | bytes]]", error.trailing_metadata() or ())
    status = next((value for key, value in trailers if key == "grpc-status-details-bin"), None)
    return HubCallError.decode(error.code().name, error.details() or "", status if isinstance(status, bytes) else None)


def clean_end() -> HubCallError:
    """The failure that a stream without an error counts as."""
    return HubCallError("OK", "", "the hub ended the stream")


def closed_error() -> HubCallError:
    """The error of calls on a closed client."""
    return HubCallError("CANCELLED", "", "this client is closed")


def log_unknown(event_ids: Sequence[str]) -> None:
    """Warn that a client was closed while these events were on their way."""
    if event_ids:
        logger.warning("closed before the hub answered; whether it stored these is not known: %s", ", ".join(event_ids))


def log_erased(erased: Erased) -> None:
    """The default of ``on_erased``: a warning, because the program has erased nothing."""
    logger.warning("somebody is to be forgotten (erasure %s): give subscribe on_erased", erased.erasure_id)


def log_notice(notice: Notice) -> None:
    """The default of ``on_notice``: warns in the log ``tickets_hub`` of what a developer must know."""
    if isinstance(notice, Reconnecting):
        logger.warning("the stream broke, trying again in %.1f s: %s", notice.delay, notice.error)
    elif isinstance(notice, Gap):
        between = (notice.from_time.ToJsonString(), notice.to_time.ToJsonString())
        logger.warning("events between %s and %s are not kept any more", *between)

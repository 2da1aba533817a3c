"""Verifying what the hub posts to a receiver (docs/webhooks.md): needs the standard library alone.

from tickets_hub.webhooks import WebhookError, verify

try:
body = verify(request.headers, await request.read(), secret)
except WebhookError:
return web.Response(status=401)
"""

import base64
import binascii
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

TOLERANCE = 300
"""Seconds that a request may be old, or ahead of this machine's clock."""

_ID, _TIMESTAMP, _SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"


class WebhookError(Exception):
    """The request is not one of the hub's, or too old; the text says why. Answer it with 401."""


def verify(headers: Mapping[str, str], body: bytes, secret: str, *, now: float | None = None) -> Any:  # noqa: ANN401  JSON
    """Verify a request, and return its body, read as JSON; the bytes of one that is not JSON.

    Args:
        headers: of the request, in any case.
        body: the bytes as received; verification fails for bytes that a parser has changed.
        secret: "whsec_..." of the endpoint.
        now: seconds since 1970; None = this machine's clock.

    Raises:
        WebhookError: the hub did not send it, or it is too old.
        ValueError: the secret is malformed, such as copied only in part.
    """
    key = _key(secret)
    given = {name.lower(): value for name, value in headers.items()}
    missing = [name for name in (_ID, _TIMESTAMP, _SIGNATURE) if not given.get(name)]
    if missing:
        raise WebhookError(f"the header {missing[0]} is missing")
    _require_recent(given[_TIMESTAMP], time.time() if now is None else now)
    content = f"{given[_ID]}.{given[_TIMESTAMP]}.".encode() + body
    expected = base64.b64encode(hmac.digest(key, content, "sha256"))
    signatures = (part.partition(",") for part in given[_SIGNATURE].split(" "))
    found = [value.encode() for version, _, value in signatures if version == "v1"]
    if not any([hmac.compare_digest(expected, one) for one in found]):  # noqa: C419  all are compared, whichever fits
        raise WebhookError("no signature matches: wrong secret, or the body was changed")
    is_json = "json" in given.get("content-type", "application/json")
    return json.loads(body) if is_json else body


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key or not secret.startswith("whsec_"):
        raise ValueError("the secret must be whsec_ and base64, as CreateEndpoint or RotateEndpointSecret showed it")
    return key


def _require_recent(text: str, now: float) -> None:
    if not (text.isascii() and text.isdigit()):
        raise WebhookError("webhook-timestamp is not a number of seconds")
    if abs(now - int(text[:15])) > TOLERANCE:
        raise WebhookError("the request is too old, or this machine's clock is wrong")

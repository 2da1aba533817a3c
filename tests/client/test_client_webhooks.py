"""The client verifies what the hub and the official library sign; anything else is one typed error."""

import time
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook

from hub.client import webhooks
from hub.control.hub_secret import HubSecret
from hub.webhooks.signing import Signer, forged, headers

SIGNER = Signer(HubSecret(b"s" * 32))
RECORD = SIGNER.new_record()
KEY = SIGNER.key(RECORD, "i/default")
assert KEY is not None
BODY = b'{"type":"ready","data":{}}'


def signed(seconds: int | None = None) -> dict[str, str]:
    """The headers of a request of now, or of another time."""
    assert KEY is not None
    return headers([KEY], "msg_1", int(time.time()) if seconds is None else seconds, BODY)


def test_requests_signed_by_the_hub_verify() -> None:
    """The parsed body is returned; the case of the headers does not matter."""
    assert KEY is not None
    assert webhooks.verify(signed(), BODY, KEY.secret) == {"type": "ready", "data": {}}
    assert webhooks.verify({name.title(): value for name, value in signed().items()}, BODY, KEY.secret)
    kept = webhooks.verify(signed() | {"content-type": "application/x-protobuf"}, BODY, KEY.secret)
    assert kept == BODY


def test_requests_signed_by_the_official_library_verify() -> None:
    """The client accepts any sender of Standard Webhooks."""
    assert KEY is not None
    at = time.time()
    signature = Webhook(KEY.secret).sign("msg_2", datetime.fromtimestamp(at, UTC), BODY.decode())
    given = {"webhook-id": "msg_2", "webhook-timestamp": str(int(at)), "webhook-signature": signature}
    assert webhooks.verify(given, BODY, KEY.secret)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"webhook-id": "msg_2"}, "no signature matches"),
        ({"webhook-id": ""}, "webhook-id is missing"),
        ({"webhook-timestamp": ""}, "webhook-timestamp is missing"),
        ({"webhook-signature": ""}, "webhook-signature is missing"),
        ({"webhook-signature": "v1,AAAA"}, "no signature matches"),
        ({"webhook-signature": "v1"}, "no signature matches"),
        ({"webhook-signature": "v9,\u00e9"}, "no signature matches"),
        ({"webhook-timestamp": "soon"}, "not a number"),
        ({"webhook-timestamp": "1"}, "too old"),
    ],
)
def test_a_changed_request_does_not_verify(change: dict[str, str], why: str) -> None:
    """The error says why."""
    assert KEY is not None
    with pytest.raises(webhooks.WebhookError, match=why):
        webhooks.verify(signed() | change, BODY, KEY.secret)


def test_an_old_or_future_request_does_not_verify() -> None:
    """Five minutes either way are allowed."""
    assert KEY is not None
    for off, verifies in ((290, True), (-290, True), (310, False), (-310, False)):
        given = signed(1_800_000_000 + off)
        if verifies:
            assert webhooks.verify(given, BODY, KEY.secret, now=1_800_000_000)
        else:
            with pytest.raises(webhooks.WebhookError):
                webhooks.verify(given, BODY, KEY.secret, now=1_800_000_000)


def test_another_body_and_a_forgery_do_not_verify() -> None:
    """The exact bytes count, and the secret."""
    assert KEY is not None
    for given, body in ((signed(), BODY + b" "), (forged(signed()), BODY)):
        with pytest.raises(webhooks.WebhookError):
            webhooks.verify(given, body, KEY.secret)


@pytest.mark.parametrize("secret", ["", "whsec_", "secret", "whsec_%%%", "c2VjcmV0"])
def test_an_invalid_secret_raises_value_error(secret: str) -> None:
    """It is not reported as a wrong signature."""
    with pytest.raises(ValueError, match="whsec_"):
        webhooks.verify(signed(), BODY, secret)

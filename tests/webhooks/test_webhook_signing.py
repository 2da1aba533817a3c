"""The official library of Standard Webhooks verifies the signatures."""

import base64
import time

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from standardwebhooks import Webhook, WebhookVerificationError

from hub.control.hub_secret import HubSecret
from hub.webhooks.signing import SIGNATURE, Signer, forged, headers

HUB = HubSecret(b"s" * 32)
BODY = b'{"type":"events"}'


def test_the_official_library_verifies_both_keys_of_a_rotation() -> None:
    """During an overlap a receiver verifies with the former secret or with the new one; with another it does not."""
    signer = Signer(HUB)
    keys = [signer.key(signer.new_record(), "i/default") for _ in range(3)]
    assert all(key is not None for key in keys)
    new, old, other = (key for key in keys if key is not None)
    signed = headers([new, old], "msg_1", int(time.time()), BODY)
    for key in (new, old):
        Webhook(key.secret).verify(BODY, signed)
    with pytest.raises(WebhookVerificationError):
        Webhook(other.secret).verify(BODY, signed)
    with pytest.raises(WebhookVerificationError):
        Webhook(new.secret).verify(BODY + b" ", signed)


def test_the_public_key_verifies() -> None:
    """`v1a` is an Ed25519 signature of the same content, under the key that the endpoint shows."""
    signer = Signer(HUB)
    key = signer.key(signer.new_record(), "i/default")
    assert key is not None
    seconds = int(time.time())
    versions = dict(part.split(",", 1) for part in headers([key], "msg_1", seconds, BODY)[SIGNATURE].split())
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key.public_key.removeprefix("whpk_")))
    public.verify(base64.b64decode(versions["v1a"]), f"msg_1.{seconds}.".encode() + BODY)
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(versions["v1a"]), b"something else")


def test_a_forged_request_does_not_verify() -> None:
    """It has the form of a signed one, and the library refuses it."""
    signer = Signer(HUB)
    key = signer.key(signer.new_record(), "i/default")
    assert key is not None
    signed = headers([key], "msg_1", int(time.time()), BODY)
    wrong = forged(signed)
    assert [part[:3] for part in wrong[SIGNATURE].split()] == ["v1,", "v1a"]
    with pytest.raises(WebhookVerificationError):
        Webhook(key.secret).verify(BODY, wrong)


def test_keys_survive_a_rotation_of_the_hubs_secret() -> None:
    """A key is derived from the secret that was in force when it was made, for as long as the hub has that one."""
    first = Signer(HUB)
    record = first.new_record()
    made, later = first.key(record, "i/default"), Signer(HUB.followed_by(b"t" * 32, 1)).key(record, "i/default")
    assert made is not None
    assert later is not None
    assert later.secret == made.secret
    assert Signer(HubSecret(b"t" * 32)).key(record, "i/default") is None
    assert later.secret not in repr(later)


def test_message_ids_follow_from_the_content() -> None:
    """The same content has the same id at every attempt; another endpoint, kind or content has another. No dots."""
    signer = Signer(HUB)
    one = signer.message_id("i/default", "events", b"content")
    assert one == Signer(HUB).message_id("i/default", "events", b"content")
    assert one.startswith("msg_")
    assert "." not in one
    others = {signer.message_id(*parts) for parts in (("i/b", "events", b"content"), ("i/default", "gap", b"content"))}
    assert len(others | {one, signer.message_id("i/default", "events", b"contents")}) == 4


def test_each_endpoint_has_its_own_secret() -> None:
    """Two endpoints with one salt share nothing."""
    signer = Signer(HUB)
    record = signer.new_record()
    a, b = signer.key(record, "i/a"), signer.key(record, "i/b")
    assert a is not None
    assert b is not None
    assert a.secret != b.secret
    assert a.public_key != b.public_key

"""Signing requests: secrets are derived, not stored; the headers are those of Standard Webhooks.

From the hub's secret and a random salt to a signature (https://github.com/standard-webhooks/standard-webhooks,
`v1` = HMAC-SHA256, `v1a` = Ed25519). Pure. It does not know endpoints' states.
"""

import base64
import hmac
import secrets
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hub.control.hub_secret import HubSecret
from hub.crypto import Mac, derive, state_check
from hub.endpoint_model import SigningRecord

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
"""The headers."""

KEYS = 4_096
"""Derived keys that are kept, those used last, so that no request has to derive its own."""


class SigningKey:
    """The secret and the key pair of one endpoint between two rotations."""

    def __init__(self, hub_secret: bytes, salt: bytes, name: str) -> None:
        """`name`: "<integration>/<endpoint>"."""
        self._derivation = (hub_secret, salt, name)
        self._secret = self._derived("secret")

    def _derived(self, purpose: str) -> bytes:
        hub_secret, salt, name = self._derivation
        info = f"tickets-hub webhook {purpose} {name}".encode()
        return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(hub_secret)

    @cached_property
    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self._derived("key pair"))

    def __repr__(self) -> str:
        """Without the secret."""
        return "<SigningKey>"

    @property
    def secret(self) -> str:
        """The secret for a receiver: "whsec_" and base64."""
        return f"whsec_{base64.b64encode(self._secret).decode()}"

    @property
    def public_key(self) -> str:
        """The public key for a receiver: "whpk_" and base64 of the 32 bytes."""
        return f"whpk_{base64.b64encode(self._private.public_key().public_bytes_raw()).decode()}"

    def signatures(self, content: bytes) -> str:
        """Both signatures of some content, separated by a space."""
        mac, signed = hmac.digest(self._secret, content, "sha256"), self._private.sign(content)
        return f"v1,{base64.b64encode(mac).decode()} v1a,{base64.b64encode(signed).decode()}"


class Signer:
    """Finds the keys of endpoints, and names messages."""

    def __init__(self, secret: HubSecret) -> None:
        self._by_check = {
            state_check(one): one for one in (secret.current, *(earlier for earlier, _ in secret.earlier))
        }
        self._check = state_check(secret.current)
        self._ids = Mac(derive(secret.current, "webhook ids", 32))
        self._key = lru_cache(KEYS)(SigningKey)

    def new_record(self) -> SigningRecord:
        """A fresh salt, under the secret that is in force."""
        return SigningRecord(secrets.token_hex(16), self._check)

    def key(self, record: SigningRecord, name: str) -> SigningKey | None:
        """The key of an endpoint; None where the secret of the hub that it was made from is gone."""
        secret = self._by_check.get(record.check)
        return self._key(secret, bytes.fromhex(record.salt), name) if secret is not None else None

    def message_id(self, name: str, kind: str, content: bytes) -> str:
        """The id of a message: the same whenever the same content goes to the same endpoint; it reveals nothing."""
        parts = b"\0".join((name.encode(), kind.encode(), sha256(content).digest()))
        digest = self._ids.digest(parts)
        return f"msg_{base64.b32encode(digest[:20]).decode().lower()}"


def headers(keys: Iterable[SigningKey], message_id: str, seconds: int, body: bytes) -> dict[str, str]:
    """The three headers of a request, signed by each of the keys.

    Args:
        keys: the newest first; during a rotation there are two.
        message_id: without a dot.
        seconds: since 1970, of this attempt.
        body: the exact bytes that are sent.
    """
    content = f"{message_id}.{seconds}.".encode() + body
    return {
        ID: message_id,
        TIMESTAMP: str(seconds),
        SIGNATURE: " ".join(key.signatures(content) for key in keys),
    }


def forged(signed: Mapping[str, str]) -> dict[str, str]:
    """The same headers with signatures that are wrong, of the same form."""
    wrong = []
    for one in signed[SIGNATURE].split(" "):
        version, _, value = one.partition(",")
        wrong.append(f"{version},{base64.b64encode(bytes(len(base64.b64decode(value)))).decode()}")
    return {**signed, SIGNATURE: " ".join(wrong)}

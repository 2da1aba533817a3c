"""A NATS server that knows only an operator: accounts and users come as JWTs that one signs for the other.

What `nsc` makes, in a few lines: keys in base32 with their kind in front and a checksum behind (nkeys), and JWTs of
the type "ed25519-nkey" (NATS ADR-14).
"""

import base64
import binascii
import json
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PREFIXES = {"operator": 14 << 3, "account": 0, "user": 20 << 3}
_SEED = 18 << 3
_WITHOUT_LIMITS = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
_STORE = ("mem_storage", "disk_storage", "streams", "consumer")


class Key:
    """A key of an operator, an account or a user."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._key = Ed25519PrivateKey.generate()
        self.public = _coded(bytes([PREFIXES[kind]]) + self._key.public_key().public_bytes_raw())

    @property
    def seed(self) -> str:
        """The private key as text."""
        prefix = PREFIXES[self.kind]
        return _coded(bytes([_SEED | prefix >> 5, (prefix & 31) << 3]) + self._key.private_bytes_raw())

    def vouches(self, other: "Key", **claims: Any) -> str:  # noqa: ANN401  JSON
        """A JWT by which this key says what another one may."""
        now = int(time.time())
        said = {"iat": now, "iss": self.public, "sub": other.public, "name": other.kind, "jti": "x"}
        said["nats"] = {"type": other.kind, "version": 2, **claims}
        text = ".".join(_part(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, said))
        return f"{text}.{_part(self._key.sign(text.encode()))}"


class Realm:
    """An operator, an account with a store, and one for the server itself."""

    def __init__(self) -> None:
        self._operator, self._account, self._system = Key("operator"), Key("account"), Key("account")

    @property
    def configuration(self) -> str:
        """The lines by which a server trusts the operator and knows the accounts."""
        limits: dict[str, Any] = dict.fromkeys(_WITHOUT_LIMITS, -1) | {"wildcards": True}
        accounts = {
            self._account.public: self._operator.vouches(self._account, limits=limits | dict.fromkeys(_STORE, -1)),
            self._system.public: self._operator.vouches(self._system, limits=limits),
        }
        return (
            f"operator: {self._operator.vouches(self._operator)}\nsystem_account: {self._system.public}\n"
            f"resolver: MEMORY\nresolver_preload: {json.dumps(accounts)}\n"
        )

    def let_in(self, file: Path) -> None:
        """Write the credentials of a new user of the account."""
        user = Key("user")
        jwt = self._account.vouches(user, subs=-1, data=-1, payload=-1)
        file.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )
        file.chmod(0o600)


def _coded(raw: bytes) -> str:
    return base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).decode().rstrip("=")


def _part(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")

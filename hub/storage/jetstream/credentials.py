"""A NATS credentials file: who the hub is towards a cluster with decentralised authentication, and how it proves it.

The file holds a JWT, signed by an account, and the seed of the user's key, by which the server's nonce is signed (NATS
ADR-14). The client library can do so too, but needs another package for it, and waits for ever on a file without a JWT.
"""

import base64
import binascii
import re
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hub.errors import StartError

_FORM = re.compile(
    r"-+BEGIN NATS USER JWT-+\s+(\S+)\s+-+END NATS USER JWT-+.*"
    r"-+BEGIN USER NKEY SEED-+\s+(SU[A-Z2-7]{56})\s+-+END USER NKEY SEED-+",
    re.DOTALL,
)
_KEY = slice(2, 34)
"""Where the key lies in a seed: behind the bits that say what it is of, before its checksum."""


class Credentials:
    """What the client library asks for. A file that was replaced holds for the next connection, if it can be read."""

    def __init__(self, file: Path) -> None:
        """Read a file.

        Raises:
            StartError: it cannot be read, or does not hold both.
        """
        self._file = file
        try:
            self._jwt, self._key = _parts(file)
        except ValueError:
            raise StartError(
                f"nats_credentials: {file} does not hold a user's JWT and seed: 'nsc generate creds' writes such a file"
            ) from None
        except OSError as error:
            raise StartError(f"nats_credentials: {file}: {error.strerror}") from None

    def jwt(self) -> bytes:
        """Who the hub is."""
        with suppress(OSError, ValueError):
            self._jwt, self._key = _parts(self._file)
        return self._jwt

    def sign(self, nonce: str) -> bytes:
        """The proof, in base64."""
        self.jwt()
        return base64.b64encode(self._key.sign(nonce.encode()))


def _parts(file: Path) -> tuple[bytes, Ed25519PrivateKey]:
    found = _FORM.search(file.read_text("ascii"))
    raw = base64.b32decode(found[2] + "======") if found is not None else b""
    if found is None or binascii.crc_hqx(raw[:-2], 0).to_bytes(2, "little") != raw[-2:]:
        raise ValueError(file)
    return found[1].encode(), Ed25519PrivateKey.from_private_bytes(raw[_KEY])

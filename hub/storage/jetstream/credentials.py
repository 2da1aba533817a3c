"""A NATS credentials file: the identity of the hub in a cluster with decentralised authentication.

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
from hub.text_files import read_text

_FORM = re.compile(
    r"-+BEGIN NATS USER JWT-+\s+(\S+)\s+-+END NATS USER JWT-+.*"
    r"-+BEGIN USER NKEY SEED-+\s+(SU[A-Z2-7]{56})\s+-+END USER NKEY SEED-+",
    re.DOTALL,
)
_KEY = slice(2, 34)
"""The bytes of the key in a seed: after its type, before its checksum."""


class Credentials:
    """The NATS client's callbacks for a credentials file.

    Each connection reads the file again, so a replaced one is used from the next connection on. If it cannot be read,
    the credentials read before it stay in use.
    """

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
                f"nats_credentials: {file} contains no user JWT and seed: 'nsc generate creds' writes such a file"
            ) from None
        except OSError as error:
            raise StartError(f"nats_credentials: {file}: {error.strerror}") from None

    def jwt(self) -> bytes:
        """The JWT of the hub's user."""
        with suppress(OSError, ValueError):
            self._jwt, self._key = _parts(self._file)
        return self._jwt

    def sign(self, nonce: str) -> bytes:
        """The signature of a nonce, in base64."""
        self.jwt()
        return base64.b64encode(self._key.sign(nonce.encode()))


def _parts(file: Path) -> tuple[bytes, Ed25519PrivateKey]:
    found = _FORM.search(read_text(file))
    raw = base64.b32decode(found[2] + "======") if found is not None else b""
    if found is None or binascii.crc_hqx(raw[:-2], 0).to_bytes(2, "little") != raw[-2:]:
        raise ValueError(file)
    return found[1].encode(), Ed25519PrivateKey.from_private_bytes(raw[_KEY])

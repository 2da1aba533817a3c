"""The hub's certificate: read, checked, and replaced while the hub serves."""

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from hub.clock import Clock
from hub.config import Settings
from hub.errors import StartError
from hub.text_files import read_ascii

DAY = 24 * 3600.0
"""Seconds between two checks of when the certificates expire."""

ENDS_SOON = timedelta(days=14)

NOT_TAKEN = "gRPC takes neither the certificate nor its key: use RSA or ECDSA P-256"

log = structlog.get_logger()


class Files(NamedTuple):
    """The content of the files, as PEM."""

    key: bytes
    chain: bytes
    authority: bytes | None

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """The configuration for gRPC, which accepts each object only once."""
        return grpc.ssl_server_certificate_configuration([(self.key, self.chain)], root_certificates=self.authority)


class Certificates:
    """The hub's certificate, and the CA whose certificates clients must have."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        """Read the files that the settings name.

        Raises:
            StartError: a file cannot be read, or has the wrong content.
        """
        self._settings = settings
        self._clock = clock
        self._files = read_files(settings)
        self._replacement: Files | None = None

    @property
    def is_used(self) -> bool:
        """Whether the hub serves with TLS."""
        return self._files is not None

    @property
    def ends(self) -> float | None:
        """When the first of the chain's certificates expires, in seconds since 1970; None without TLS."""
        if self._files is None:
            return None
        return min(one.not_valid_after_utc.timestamp() for one in x509.load_pem_x509_certificates(self._files.chain))

    def credentials(self) -> grpc.ServerCredentials:
        """The credentials for a port; later connections get what `read_again` has read."""
        if self._files is None:
            raise RuntimeError("the hub serves without TLS")
        fetch: Any = self._fetch  # the types do not know that None means "no change"
        return grpc.dynamic_ssl_server_credentials(
            self._files.configuration(), fetch, require_client_authentication=self._files.authority is not None
        )

    def read_again(self, settings: Settings) -> Callable[[], None]:
        """Read the files again; returns what gives them to new connections. Blocks: the files may be anywhere.

        Raises:
            StartError: a file cannot be read or is wrong.
        """
        files = read_files(settings)
        if files is None or self._files is None:
            return lambda: None  # a port cannot switch between TLS and plaintext
        if (files.authority is None) != (self._files.authority is None):
            raise StartError("tls_client_ca cannot be set or unset while the hub runs: restart it")
        if not is_taken(files):
            raise StartError(f"TLS: {settings.tls_certificate}: {NOT_TAKEN}")
        return partial(self._replace, settings, files)

    def _replace(self, settings: Settings, files: Files) -> None:
        self._settings, self._files, self._replacement = settings, files, files

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """The configuration for a handshake, called by gRPC's threads; None: nothing has changed."""
        files, self._replacement = self._replacement, None
        return files.configuration() if files is not None else None

    async def warn(self) -> None:
        """Log each file whose certificates have expired, expire soon, or are not valid yet."""
        if self._files is None:
            return
        for file, pem in (
            (self._settings.tls_certificate, self._files.chain),
            (self._settings.tls_client_ca, self._files.authority),
        ):
            for certificate in x509.load_pem_x509_certificates(pem) if pem else ():
                self._warn_of(str(file), certificate)

    def _warn_of(self, file: str, certificate: x509.Certificate) -> None:
        now = datetime.fromtimestamp(self._clock.now() / 1_000_000, UTC)
        subject = certificate.subject.rfc4514_string()
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if ends <= now:
            log.warning("a certificate has expired", file=file, subject=subject, ended=ends.isoformat())
        elif ends <= now + ENDS_SOON:
            log.warning("a certificate expires soon", file=file, subject=subject, ends=ends.isoformat())
        if begins > now:
            log.warning("a certificate is not valid yet", file=file, subject=subject, begins=begins.isoformat())


def read_files(settings: Settings) -> Files | None:
    """The content of the files that the settings name; None for plaintext.

    Raises:
        StartError: a file cannot be read, or has the wrong content.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    key, chain = read_pem(settings.tls_key), read_pem(settings.tls_certificate)
    authority = read_pem(settings.tls_client_ca) if settings.tls_client_ca else None
    _require_pair(settings.tls_key, key, settings.tls_certificate, chain)
    if settings.tls_client_ca and authority is not None:
        _certificates(settings.tls_client_ca, authority)
    return Files(key, chain, authority)


def is_taken(files: Files) -> bool:
    """Whether gRPC takes the files for a port: while it serves it says nothing, and goes on with the former ones."""
    trial = grpc.server(ThreadPoolExecutor(1))  # it starts no thread before it serves
    credentials = grpc.ssl_server_credentials([(files.key, files.chain)], files.authority, files.authority is not None)
    try:
        trial.add_secure_port("127.0.0.1:0", credentials)
    except RuntimeError:
        return False
    finally:
        trial.stop(None)
    return True


def read_pem(file: Path) -> bytes:
    """A PEM file.

    Raises:
        StartError: it cannot be read, or is not text.
    """
    try:
        return read_ascii(file)
    except UnicodeError:
        raise StartError(f"TLS: {file} is not a PEM file, which is ASCII and begins with '-----BEGIN'") from None
    except OSError as error:
        raise StartError(f"{error.filename}: {error.strerror}") from None


def _certificates(file: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise StartError(f"TLS: {file} contains no certificate in PEM form") from None


def _require_pair(key_file: Path, key_pem: bytes, chain_file: Path, chain_pem: bytes) -> None:
    """Check that the key belongs to the first certificate: gRPC would only report that it could not listen."""
    chain = _certificates(chain_file, chain_pem)
    try:
        key = load_pem_private_key(key_pem, None)
    except TypeError:
        raise StartError(f"TLS: {key_file} is encrypted: use a key without a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise StartError(f"TLS: {key_file} contains no private key in PEM form") from None
    fitting = [_public(one) == _public(key) for one in chain]
    if not any(fitting):
        raise StartError(f"TLS: {key_file} is not the key of the certificate in {chain_file}")
    if not fitting[0]:
        raise StartError(f"TLS: {chain_file} must begin with the hub's own certificate, then those that signed it")


def _public(holder: x509.Certificate | PrivateKeyTypes) -> bytes:
    """The public key of a certificate, or of a private key; empty if it is of an unknown kind."""
    try:
        return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        return b""


def why_not_listening(listen: str) -> str:
    """Why an address cannot be bound, in the system's words; empty if it can."""
    host, _, port = listen.rpartition(":")
    try:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host.strip("[]"), int(port), type=socket.SOCK_STREAM
        ):
            with socket.socket(family, kind, protocol) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(address)
    except OSError as error:
        return error.strerror or str(error)
    return ""

"""What `hub tail` and `hub emit` have in common: how to reach a hub and with which key, and how they end.

Lives here: flags, keys, TLS, one line for a failure. What is sent and shown is in ``tail.py`` and ``emit.py``.
"""

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import click

from hub.cli.settling import give_up
from hub.client import Client, HubCallError, Policy, tls
from hub.config import check_address

Command = TypeVar("Command", bound=Callable[..., Any])

FAILED = 1


class Calling(NamedTuple):
    """What was said about whom to call, and as whom."""

    address: str
    key: str | None
    key_file: Path | None
    tls_ca: Path | None
    tls_certificate: Path | None
    tls_key: Path | None
    insecure: bool

    @property
    def uses_tls(self) -> bool:
        """Whether TLS was asked for; else the address decides."""
        return self.tls_ca is not None or self.tls_certificate is not None


def read_address(_context: click.Context, _option: click.Parameter, text: str) -> str:
    """What --address means: gRPC itself would go on trying one that is none."""
    try:
        return check_address(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def calling_options(variable: str) -> Callable[[Command], Command]:
    """The flags of `Calling`, for a key that is in an environment variable unless said otherwise."""
    key = f"the key [${variable}]; seen by everyone who lists processes, the variable and --key-file are not"
    path = click.Path(path_type=Path)
    options = [
        click.option(
            "--address",
            default="127.0.0.1:50051",
            envvar="HUB_ADDRESS",
            metavar="HOST:PORT",
            callback=read_address,
            help="of the hub [127.0.0.1:50051; $HUB_ADDRESS]",
        ),
        click.option("--key", metavar="KEY", help=key),
        click.option("--key-file", type=path, metavar="FILE", help="a file that holds the key and nothing else"),
        click.option("--tls-ca", type=path, metavar="FILE", help="PEM file: whose signature the hub's certificate has"),
        click.option("--tls-certificate", type=path, metavar="FILE", help="PEM file: this caller's own, for mTLS"),
        click.option("--tls-key", type=path, metavar="FILE", help="PEM file: the private key of --tls-certificate"),
        click.option("--insecure", is_flag=True, help="plaintext to another machine, too: others can read the key"),
    ]

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def open_client(calling: Calling, variable: str, policy: Policy) -> Client:
    """A client for what was said; ends the program with one line where that makes no sense."""
    if (calling.tls_certificate is None) != (calling.tls_key is None):
        give_up("--tls-certificate and --tls-key go together")
    key = _key(calling, variable)
    if not key:
        give_up(f"no key: export {variable}, or name a file that holds it with --key-file")
    try:
        credentials = _credentials(calling) if calling.uses_tls else None
        return Client(calling.address, key, credentials=credentials, insecure=calling.insecure, policy=policy)
    except ssl.SSLError as error:
        give_up(f"TLS: these are no PEM files of an authority, a certificate and its key: {error}")
    except OSError as error:
        give_up(f"{error.filename}: {error.strerror}")
    except ValueError as error:
        give_up(str(error))


def _key(calling: Calling, variable: str) -> str:
    if calling.key is not None:
        return calling.key
    if calling.key_file is None:
        return os.environ.get(variable, "")
    try:
        return calling.key_file.read_text("ascii").strip()
    except UnicodeDecodeError:
        give_up(f"{calling.key_file} does not hold a key")
    except OSError as error:
        give_up(f"{error.filename}: {error.strerror}")


def _credentials(calling: Calling) -> Any:  # noqa: ANN401  gRPC's type, which only the client imports
    files = (calling.tls_ca, calling.tls_certificate, calling.tls_key)
    authority, certificate, key = (file.read_bytes() if file is not None else None for file in files)
    trial = ssl.create_default_context()  # gRPC itself tells only that it could not connect
    if authority is not None:
        trial.load_verify_locations(cadata=authority.decode("ascii", "replace"))
    if calling.tls_certificate is not None:
        trial.load_cert_chain(calling.tls_certificate, calling.tls_key, password=str)
    return tls(authority, certificate, key)


def fail(error: HubCallError) -> NoReturn:
    """End with what the hub said, and status 1."""
    give_up(told(error), FAILED)


def told(error: HubCallError) -> str:
    """A failure in one line: what is wrong, and its name for programs."""
    return f"{plain(error.message)} ({error.reason or error.code})"


def plain(text: str) -> str:
    """A text from elsewhere as one line that does nothing to a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)

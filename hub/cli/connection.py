"""Flags, key and TLS of the commands that call a hub (`hub tail`, `hub emit`), and how these commands fail."""

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import click
from tickets_hub import Client, HubCallError, Outbox, OutboxError, Policy, tls

from hub.addresses import check_address
from hub.cli.options import give_up
from hub.config import Settings
from hub.environment import refuse_unknown_files
from hub.errors import StartError
from hub.secret_files import file_from_environment, read_secret, refuse_exposed
from hub.text import escaped
from hub.text_files import read_ascii, without_mark

Command = TypeVar("Command", bound=Callable[..., Any])

FAILED = 1


class ConnectionOptions(NamedTuple):
    """The hub to call, and the key and certificates to call it with."""

    address: str
    key: str | None
    key_file: Path | None
    tls_ca: Path | None
    tls_certificate: Path | None
    tls_key: Path | None
    insecure: bool
    proxy: str | None

    def __repr__(self) -> str:
        """The address without the key, which a traceback would show."""
        return f"<ConnectionOptions {self.address}>"

    @property
    def uses_tls(self) -> bool:
        """Whether the flags ask for TLS; otherwise the address decides."""
        return self.tls_ca is not None or self.tls_certificate is not None


def read_address(_context: click.Context, _option: click.Parameter, text: str) -> str:
    """A valid --address; gRPC itself would retry a malformed one forever."""
    try:
        return check_address(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def connection_options(variable: str) -> Callable[[Command], Command]:
    """The flags of `ConnectionOptions`; `variable`: the environment variable of the key."""
    key = f"the key [${variable}]; others can see it in the process list: prefer the variable or --key-file"
    path = click.Path(path_type=Path)
    options = [
        click.option(
            "--address",
            default="127.0.0.1:50051",
            envvar="HUB_ADDRESS",
            metavar="HOST:PORT",
            callback=read_address,
            help="the hub to call [127.0.0.1:50051; $HUB_ADDRESS]",
        ),
        click.option("--key", metavar="KEY", help=key),
        click.option("--key-file", type=path, metavar="FILE", help="a file that contains only the key"),
        click.option("--tls-ca", type=path, metavar="FILE", help="PEM file: the CA of the hub's certificate"),
        click.option("--tls-certificate", type=path, metavar="FILE", help="PEM file: the client certificate, for mTLS"),
        click.option("--tls-key", type=path, metavar="FILE", help="PEM file: the private key of --tls-certificate"),
        click.option("--insecure", is_flag=True, help="allow plaintext to another machine: others can read the key"),
        click.option(
            "--proxy", metavar="URL", help="HTTP proxy to connect through; none by default, whatever http_proxy says"
        ),
    ]

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def open_client(options: ConnectionOptions, variable: str, policy: Policy, outbox: Outbox | None = None) -> Client:
    """A client for these options; ends the program with one line if they contradict each other."""
    if (options.tls_certificate is None) != (options.tls_key is None):
        give_up("--tls-certificate and --tls-key go together: give both")
    try:
        key = _key(options, variable)
        if not key:
            give_up(f"no key: export {variable}, or name a file that contains it with --key-file or {variable}_FILE")
        credentials = _credentials(options) if options.uses_tls else None
        return Client(
            *(options.address, key),
            credentials=credentials,
            insecure=options.insecure,
            proxy=options.proxy,
            policy=policy,
            outbox=outbox,
        )
    except ssl.SSLError as error:
        give_up(f"TLS: the files are not a CA, a certificate and its key in PEM: {error}")
    except OSError as error:
        give_up(f"{error.filename}: {error.strerror}")
    except (ValueError, StartError, OutboxError) as error:
        give_up(str(error))


def _key(options: ConnectionOptions, variable: str) -> str:
    if options.key is not None:
        return options.key
    if options.key_file is not None:
        return read_secret(options.key_file, "--key-file")
    refuse_unknown_files(os.environ, Settings.model_fields)
    file = file_from_environment(variable)
    if file is not None and os.environ.get(variable):
        raise StartError(f"{variable} and {variable}_FILE are both set: set one of them")
    return os.environ.get(variable, "") if file is None else read_secret(file, f"{variable}_FILE")


def _credentials(options: ConnectionOptions) -> Any:  # noqa: ANN401  gRPC's type, which only the client imports
    if options.tls_key is not None:
        refuse_exposed(options.tls_key, "--tls-key")
    files = (options.tls_ca, options.tls_certificate, options.tls_key)
    authority, certificate, key = (_pem(file) if file is not None else None for file in files)
    trial = ssl.create_default_context()  # gRPC itself reports only that it could not connect
    if authority is not None:
        trial.load_verify_locations(cadata=authority.decode())
    if options.tls_certificate is not None and options.tls_key is not None:
        with without_mark(options.tls_certificate) as chain, without_mark(options.tls_key) as own:
            trial.load_cert_chain(chain, own, password=str)
    return tls(authority, certificate, key)


def _pem(file: Path) -> bytes:
    try:
        return read_ascii(file)
    except UnicodeError:
        raise ValueError(f"TLS: {file} is not a PEM file, which is ASCII and begins with '-----BEGIN'") from None


def fail(error: HubCallError) -> NoReturn:
    """End with the hub's message, and status 1."""
    give_up(describe(error), FAILED)


def describe(error: HubCallError) -> str:
    """A failure in one line: what is wrong, and its name for programs."""
    return f"{escaped(error.message)} ({error.reason or error.code})"

"""``hub healthcheck``: whether the hub with these settings on this machine serves; for containers and scripts."""

import http.client
import ssl
import sys
from contextlib import suppress
from typing import NamedTuple

import click

from hub.addresses import OFF
from hub.cli.options import EPILOG, give_up, load_settings, setting_options
from hub.cli.output import say
from hub.config import SERVING, Settings

NOT_SERVING = 1

ASKED = {"http_listen", "tls_certificate", "tls_key", "insecure"}
"""The settings of a serving hub that say how to ask it."""

TIMEOUT = 3.0
"""Seconds to wait for an answer."""


class Answer(NamedTuple):
    """The answer of the hub."""

    is_well: bool
    text: str


@click.command(epilog=EPILOG, short_help="Check whether the hub on this machine serves.")
@click.option("--live", is_flag=True, help="check only that the process answers, not that it serves calls")
@setting_options("http_listen", "tls_certificate", "tls_key")
def healthcheck(live: bool, config_file: str | None, **flags: str | None) -> None:  # noqa: FBT001  click
    """Check whether the hub on this machine serves. Status 0: it does; 1: it does not; 2: there is no way to know.

    It asks the address of http_listen, so give it the same settings as the hub.
    """
    settings = load_settings(config_file, flags, SERVING - ASKED)
    if settings.http_listen == OFF:
        give_up("http_listen is off: a health check needs it")
    answer = ask(settings, "/healthz" if live else "/readyz")
    say(answer.text)
    if not answer.is_well:
        sys.exit(NOT_SERVING)


def ask(settings: Settings, path: str) -> Answer:
    """The listener's answer, or "no answer"."""
    host, _, port = settings.http_listen.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))  # noqa: S104  compared only
    connection: http.client.HTTPConnection
    if settings.tls_certificate is None:
        connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT)
    else:
        connection = http.client.HTTPSConnection(host, int(port), timeout=TIMEOUT, context=_any_certificate(settings))
    try:
        connection.request("GET", path, headers={"Host": "localhost"})
        response = connection.getresponse()
        return Answer(response.status == 200, response.read(200).decode("utf-8", "replace").strip())
    except (OSError, http.client.HTTPException) as error:
        return Answer(is_well=False, text=f"no answer from {settings.http_listen}: {error}")
    finally:
        connection.close()


def _any_certificate(settings: Settings) -> ssl.SSLContext:
    """TLS to this machine, without a check: the certificate is for other names, and nothing secret is sent.

    The hub's certificate is shown to it, in case it asks for one.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if settings.tls_certificate is not None and settings.tls_key is not None:
        with suppress(OSError):  # the files were replaced by garbage: the hub serves on with those that it has read
            context.load_cert_chain(settings.tls_certificate, settings.tls_key, password="")
    return context

"""Access to the HTTP listener: host names and keys."""

import hmac
import ipaddress
import re

from aiohttp import web

from hub.addresses import is_loopback
from hub.api.guards import Guards
from hub.config import Settings
from hub.control.registry import Registry
from hub.errors import KeyFailure, KeyUnknown
from hub.http.requests import HttpCall
from hub.model import Role

FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip", "via")
"""Headers of proxies: the caller is not the peer of the connection."""

HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::\d{1,5})?")


class HostNames:
    """The host names that a listener answers to: a page whose host name was rebound to our address gets nothing.

    IP addresses and "localhost" are always allowed: no foreign page has such a host name.

    Args:
        listener: the setting that says where it listens.
    """

    def __init__(self, settings: Settings, listener: str) -> None:
        own = getattr(settings, listener).rpartition(":")[0].strip("[]").lower()
        listed = (name.strip().lower() for name in settings.http_hosts.split(","))
        self._names = {"localhost", own, *listed} - {""}

    def has(self, host: str) -> bool:
        """Whether a Host header names this hub."""
        found = HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].strip("[]").lower()
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return True


class Access:
    """Admits scrapers: all on loopback, otherwise those with an admin's key or the metrics token."""

    def __init__(self, registry: Registry, settings: Settings, guards: Guards) -> None:
        self._registry = registry
        self._token = settings.metrics_token.get_secret_value().encode() if settings.metrics_token else None
        self._is_open = is_loopback(settings.http_listen) and not settings.trusted_proxies
        self._guards = guards

    def require(self, request: web.Request) -> None:
        """Check that a request may read the metrics.

        Raises:
            HTTPUnauthorized, HTTPForbidden, HTTPTooManyRequests: it may not; the text says why.
        """
        if self._is_open and not any(name in request.headers for name in FORWARDED):
            return
        scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
        shown = shown.strip() if scheme.lower() == "bearer" else ""
        if not shown.isascii():  # aiohttp decodes invalid bytes as surrogates; no key has any
            self._refuse(request, KeyUnknown())
        if self._token is not None and hmac.compare_digest(shown.encode(), self._token):
            return
        try:
            holder = self._registry.keyring.authenticate(shown)
        except KeyFailure as failure:
            self._refuse(request, failure)
        if holder.key.role is not Role.ADMIN:
            raise web.HTTPForbidden(text="this key is not an admin's\n")

    def _refuse(self, request: web.Request, failure: KeyFailure) -> None:
        """Count a wrong key, and refuse it."""
        address = self._guards.addresses.of(HttpCall(request)).address
        is_guess = isinstance(failure, KeyUnknown)
        if is_guess and (wait := self._guards.throttle.wait(address)):
            raise web.HTTPTooManyRequests(
                text="too many failed authentications from your address: wait, and check the key\n",
                headers={"Retry-After": str(int(wait) + 1)},
            )
        why = "send an admin's key or the metrics token: 'Authorization: Bearer <key>'" if is_guess else failure.message
        raise web.HTTPUnauthorized(text=f"{why}\n", headers={"WWW-Authenticate": "Bearer"})

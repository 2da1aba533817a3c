"""The checks of a call over gRPC or HTTP: shared, so that a limit is one limit."""

from hub.api.access import Access
from hub.api.draining import Drain
from hub.api.limits import CallLimit, HalfOpenLimit
from hub.api.peers import Addresses
from hub.api.refusals import RefusalLog
from hub.api.throttle import Throttle
from hub.clock import Clock
from hub.config import Settings
from hub.control.registry import Registry


class Guards:
    """The checks of one hub.

    Attributes:
        access: identifies callers by their keys.
        addresses: finds where calls come from.
        log: logs refusals, within bounds.
        throttle: counts guesses of keys by address.
        calls: the places for calls with a key.
        half_open: the places for calls whose request has not arrived.
        drain: the calls that are being served, and whether more are accepted.
    """

    def __init__(self, registry: Registry, settings: Settings, clock: Clock) -> None:
        self.access = Access(registry)
        self.addresses = Addresses(settings.proxies)
        self.log = RefusalLog(self.addresses, clock)
        self.throttle = Throttle(settings.max_failed_authentications, clock)
        self.calls = CallLimit(settings.max_concurrent_calls)
        self.half_open = HalfOpenLimit()
        self.drain = Drain()

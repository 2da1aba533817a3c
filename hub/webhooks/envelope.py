"""A request to an endpoint: a body, its signatures, and the headers around it."""

from collections.abc import Callable
from functools import partial

from hub.clock import Clock, Expiries
from hub.control.endpoints import name_of
from hub.endpoint_model import EndpointRecord, SigningRecord
from hub.webhooks import signing
from hub.webhooks.bodies import Body
from hub.webhooks.schedule import Pace
from hub.webhooks.sender import Request
from hub.webhooks.signing import Signer, SigningKey

CURSOR = "hub-cursor"
ATTEMPT = "hub-attempt"


def always() -> bool:
    """The check of bodies without events: always current."""
    return True


class Envelope:
    """Makes signed requests from bodies."""

    def __init__(self, signer: Signer, clock: Clock) -> None:
        self._signer = signer
        self._clock = clock
        self._expiries = Expiries(clock)

    def keys(self, record: EndpointRecord) -> list[SigningKey]:
        """The secrets that sign for an endpoint: the newest first, the former one until its overlap ends."""
        records = [record.signing, record.previous if self.overlaps(record) else None]
        made = (self._signer.key(one, name_of(record)) for one in records if one is not None)
        return [key for key in made if key is not None]

    def overlaps(self, record: EndpointRecord) -> bool:
        """Whether the former secret of an endpoint still signs."""
        end = record.previous_expire_time
        return bool(end) and self._expiries.seconds_left(name_of(record), end) > 0

    def new_secret(self) -> SigningRecord:
        """What a new secret is derived from."""
        return self._signer.new_record()

    def request(
        self,
        record: EndpointRecord,
        body: Body,
        attempt: int = 1,
        pace: Pace = Pace.SLOW,
        is_current: Callable[[], bool] = always,
    ) -> Request:
        """A request that is signed once it is its turn; `attempt` counts from 1."""
        headers = partial(self._headers, record, body, attempt)
        return Request(record.url, headers, body.data, record.integration_id, pace, is_current)

    def _headers(self, record: EndpointRecord, body: Body, attempt: int) -> dict[str, str]:
        """The headers of a request, signed at this moment."""
        name = name_of(record)
        message_id = self._signer.message_id(name, body.kind, body.content)
        seconds = self._clock.now() // 1_000_000
        headers = {
            "content-type": body.content_type,
            **signing.headers(self.keys(record), message_id, seconds, body.data),
            ATTEMPT: str(attempt),
        }
        if body.cursor:
            headers[CURSOR] = body.cursor
        return headers

"""The certificate of a receiver becomes invalid while its endpoint delivers, and is replaced."""

import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.support.calls import ask, fails, info_of
from tests.support.certificates import Certified, certify
from tests.support.events import ids
from tests.support.hubs import FakeClock, StartHub, emit
from tests.support.name_server import serving_names
from tests.support.receivers import ALLOWED, create, endpoint_when, receiving

HOST = "hooks.example.com"
ACTIVE, FAILING, TLS = 2, 3, 4


async def hang_up(_body: dict[str, Any], _request: web.Request) -> web.Response:
    """Take a body, then close the connection: the next one needs a new handshake."""
    answer = web.Response(status=204)
    answer.force_close()
    return answer


class Certificates:
    """An authority that the hub trusts, and what a receiver presents to new connections."""

    def __init__(self, folder: Path) -> None:
        self.trusted = certify("authority")
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.authorities = folder / "authorities.pem"
        self.authorities.write_bytes(self.trusted.pem)
        self._file = folder / "receiver.pem"

    def present(self, made: Certified) -> None:
        """Present a certificate from now on."""
        self._file.write_bytes(made.pem + made.key_pem)
        self.context.load_cert_chain(self._file)

    def good(self) -> Certified:
        """A certificate with which nothing is wrong."""
        return certify("receiver", self.trusted, names=[HOST])

    def wrong(self, how: str) -> Certified:
        """One with which something is."""
        if how == "another name":
            return certify("receiver", self.trusted, names=["other.example.com"])
        if how == "expired":
            return certify(
                "receiver", self.trusted, names=[HOST], begins=timedelta(days=-90), ends=timedelta(minutes=-1)
            )
        if how == "not valid yet":
            return certify("receiver", self.trusted, names=[HOST], begins=timedelta(days=1))
        return certify("receiver", certify("unknown"), names=[HOST])


@pytest.fixture
async def certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Certificates]:
    """Certificates of a hub that starts after them, which finds the receiver by its name."""
    made = Certificates(tmp_path)
    made.present(made.good())
    monkeypatch.setenv("SSL_CERT_FILE", str(made.authorities))
    async with serving_names(monkeypatch) as server:
        server.names[HOST] = [["127.0.0.1"]]
        yield made


@pytest.mark.usefixtures("fast_retries")
@pytest.mark.parametrize("how", ["another name", "expired", "not valid yet", "unknown authority"])
async def test_delivery_waits_for_a_valid_certificate(
    start_hub: StartHub, certificates: Certificates, how: str
) -> None:
    """Nothing is sent, its developer reads why; once it is mended everything follows, nothing twice."""
    clock = FakeClock()
    hub = await start_hub(clock, **ALLOWED)
    _, reader = await hub.register("TICKET_CREATED")
    async with receiving(hang_up, certificates.context) as receiver:
        receiver.url = receiver.url.replace("127.0.0.1", HOST)
        await create(reader, receiver)
        await ask(reader, "WebhookService/VerifyEndpoint")
        before = ids("before", 5)
        await emit(hub, before)
        await receiver.until(lambda: receiver.ids == before)
        certificates.present(certificates.wrong(how))
        clock.monotonic_offset += 61
        error = await fails(ask(reader, "WebhookService/VerifyEndpoint"))
        assert info_of(error).metadata["category"] == "TLS"
        sent = receiver.requests
        meanwhile = ids("meanwhile", 150)
        await emit(hub, meanwhile)
        endpoint = await endpoint_when(reader, lambda one: one.state == FAILING)
        assert (endpoint.last_failure, endpoint.http_status) == (TLS, 0)
        assert endpoint.failing_since.seconds
        attempts = (await ask(reader, "WebhookService/ListAttempts")).attempts
        assert {one.category for one in attempts if one.category} == {TLS}
        clock.monotonic_offset += 61
        error = await fails(ask(reader, "WebhookService/VerifyEndpoint"))
        assert "the certificate of the receiver is not valid" in (error.details() or "")
        assert receiver.requests == sent
        certificates.present(certificates.good())
        await receiver.until(lambda: meanwhile[-1] in receiver.ids)
        assert receiver.ids == before + meanwhile
        endpoint = await endpoint_when(reader, lambda one: one.state == ACTIVE)
        assert endpoint.failed_attempts == 0

"""Each limit of the settings has a gauge of what is used of it, and its ceiling beside that."""

import asyncio
from typing import get_args

import pytest

from hub.config import Settings
from hub.privacy.erasing import Eraser
from tests.operations.scraping import PATIENCE, Scrape, scrape
from tests.support.calls import ask
from tests.support.hubs import RunningHub, StartHub
from tests.support.receivers import ALLOWED, create, receiving
from tests.support.uploads import LIST_SCOPES, Upload

NO_GAUGE = {
    "the size of one message or page; nothing of it is in use afterwards": {
        *("max_request_bytes", "max_batch_bytes", "max_metadata_bytes", "max_frame_bytes"),
        *("page_size", "max_page_size", "max_page_bytes"),
    },
    "a rate of each caller; a refusal has its reason in rpc_server_call_duration_seconds": {
        *("max_failed_authentications", "max_changes", "max_scanned"),
    },
    "counted in gRPC's core, which gives no numbers; further calls wait in the client": {"max_calls_per_connection"},
    "a time that one call, key or connection may take": {
        *("request_timeout", "write_deadline", "key_overlap", "report_grace"),
        *("heartbeat_interval", "keepalive_interval", "keepalive_timeout", "drain_time"),
    },
    "how long something is kept; hub_retention_seconds has a metric of its own": {
        *("retention", "audit_retention", "dedupe_window"),
    },
    "not a limit, but a number of servers": {"nats_replicas"},
}
"""The numbers among the settings that have no pair of gauges, by the reason."""


def numbers() -> set[str]:
    """The settings that are numbers."""
    fields = Settings.model_fields.items()
    return {name for name, field in fields if {int, float} & {field.annotation, *get_args(field.annotation)}}


async def test_every_limit_has_two_gauges(start_hub: StartHub) -> None:
    """A new numeric setting needs gauges, or a reason above why it has none."""
    hub = await start_hub(http_listen="127.0.0.1:0")
    families = (await scrape(hub.hub.http.port)).families
    used, ceilings = (
        {sample.labels["setting"]: sample.value for sample in families[name].samples}
        for name in ("hub_limit_used", "hub_limit")
    )
    exempt = set().union(*NO_GAUGE.values())
    assert used.keys() == ceilings.keys() == numbers() - exempt
    assert exempt < numbers()
    assert ceilings == {name: getattr(hub.settings, name) for name in ceilings}


def value(found: Scrape, name: str) -> float:
    """How much of a limit is used."""
    return found.value("hub_limit_used", setting=name)


async def test_per_integration_limits_show_the_largest_use(start_hub: StartHub) -> None:
    """Endpoints and live keys are those of the integration with most of them, not of all together."""
    hub = await start_hub(http_listen="127.0.0.1:0", **ALLOWED)
    first, one = await hub.register("TICKET_CREATED")
    _, other = await hub.register("TICKET_CREATED")
    found = await scrape(hub.hub.http.port)
    assert (value(found, "max_endpoints"), value(found, "max_live_keys")) == (0, 1)
    async with receiving() as receiver:
        for caller, endpoint_id in ((one, "a"), (one, "b"), (other, "a")):
            await create(caller, receiver, endpoint_id)
        await ask(hub.admin, "AdminService/RotateKey", integration_id=first.integration_id)
    found = await scrape(hub.hub.http.port)
    assert (value(found, "max_endpoints"), value(found, "max_live_keys")) == (2, 2)


async def test_the_half_open_gauge_shows_the_largest_use(start_hub: StartHub) -> None:
    """An integration may have a tenth: once it has that, the limit is used up, and again free when they have gone."""
    hub = await start_hub(http_listen="127.0.0.1:0", max_half_open_calls=100, request_timeout=3_600)
    _, reader = await hub.register("TICKET_CREATED")
    calls = [Upload(caller, LIST_SCOPES) for caller in [hub.bot] * 40 + [reader] * 5]
    await until_used(hub, 50)
    calls += [Upload(reader, LIST_SCOPES) for _ in range(5)]
    await until_used(hub, 100)
    for call in calls:
        call.cancel()
    await until_used(hub, 0)


async def until_used(hub: RunningHub, wanted: float) -> None:
    """Wait until a scrape shows so many half-open calls; fails if none does."""
    async with asyncio.timeout(PATIENCE):
        while value(await scrape(hub.hub.http.port), "max_half_open_calls") != wanted:  # noqa: ASYNC110  a look
            await asyncio.sleep(0.05)


async def test_erasures_in_progress_are_counted(start_hub: StartHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as they are not done."""
    hub = await start_hub(http_listen="127.0.0.1:0")
    with monkeypatch.context() as patch:
        patch.setattr(Eraser, "_finish", nothing)
        for user_id in ("7", "8"):
            await ask(hub.admin, "PrivacyService/EraseUser", user_id=user_id)
        assert value(await scrape(hub.hub.http.port), "max_erasures") == 2
    async with asyncio.timeout(PATIENCE):
        while value(await scrape(hub.hub.http.port), "max_erasures"):  # noqa: ASYNC110  a look
            await asyncio.sleep(0.05)


async def nothing(*_: object) -> None:
    """Erase nothing for now."""

"""What a real hub tells Prometheus: counted where it happens, read by Prometheus' own parser."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from tickets.hub.v1 import event_pb2, event_service_pb2

from hub import logs, metrics
from tests.operations.scraping import PATIENCE, get, scrape, until_scraped
from tests.support.hubs import FakeClock, RunningHub, StartHub
from tests.support.processes import serving

GUILD = "197038439483310086"


@pytest.fixture
async def watched(start_hub: StartHub) -> RunningHub:
    """A hub with an HTTP listener on a free port."""
    return await start_hub(http_listen="127.0.0.1:0")


def created(event_id: str) -> event_pb2.Event:
    """A ticket."""
    event = event_pb2.Event(id=event_id, guild_id=GUILD)
    event.ticket_created.creator_user_id = "53908232506183680"
    return event


async def test_every_metric_of_the_table_is_scraped(watched: RunningHub) -> None:
    """Each name of the table is there with its type, and nothing of ours that the table does not have."""
    found = await scrape(watched.hub.http.port)
    ours = {name: family.type for name, family in found.families.items() if name.startswith(("hub_", "rpc_"))}
    assert ours == {metric.name: metric.kind for metric in metrics.TABLE}
    assert "process_resident_memory_bytes" in found.families


async def test_an_event_is_counted_at_every_step(watched: RunningHub) -> None:
    """Accepted, committed, applied, delivered; a repetition is a duplicate; calls have OTel's names."""
    port = watched.hub.http.port
    before = await scrape(port)
    _, reader = await watched.register("TICKET_CREATED")
    stream = await reader.subscribe()
    for _ in range(2):
        await watched.emit(created("one"))
    await stream.events(1)
    after = await until_scraped(
        port,
        "rpc_server_call_duration_seconds_count",
        before.value(
            "rpc_server_call_duration_seconds_count",
            rpc_method="tickets.hub.v1.EventService/EmitEvent",
            rpc_response_status_code="OK",
            error_type="",
        )
        + 2,
        rpc_method="tickets.hub.v1.EventService/EmitEvent",
        rpc_response_status_code="OK",
        error_type="",
    )

    def grown(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    assert grown("hub_events_accepted_total", event_type="ticket_created") == 1
    assert grown("hub_events_duplicate_total") == 1
    assert grown("hub_events_applied_total") == 1
    assert grown("hub_events_delivered_total") == 1
    assert grown("hub_store_append_duration_seconds_count") == 2
    assert grown("hub_store_group_entries_sum") >= 2
    assert after.value("hub_streams", state="live") == 1
    assert after.value("hub_integrations", state="ACTIVE") == 1
    assert after.value("hub_limit_used", setting="max_streams") == 1
    assert after.value("hub_limit", setting="max_streams") == watched.settings.max_streams
    assert after.value("hub_store_current") == after.value("hub_serving") == 1
    assert after.value("hub_store_bytes") > 0


async def test_refused_calls_are_counted_by_their_reason(watched: RunningHub) -> None:
    """The labels have the contract's status and reason, and never the text of a bad key."""
    labels = {
        "rpc_method": "tickets.hub.v1.EventService/EmitEvent",
        "rpc_response_status_code": "UNAUTHENTICATED",
        "error_type": "KEY_UNKNOWN",
    }
    port, name = watched.hub.http.port, "rpc_server_call_duration_seconds_count"
    before = (await scrape(port)).value(name, **labels)
    stranger = watched.caller("tkt_bot_aaaaaaaaaaaa_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbb")
    with pytest.raises(Exception, match="UNAUTHENTICATED"):
        await stranger.call("EventService/EmitEvent", event_service_pb2.EmitEventRequest(event=created("one")))
    await until_scraped(port, name, before + 1, **labels)
    assert "tkt_bot" not in (await get(port, "/metrics")).text


async def test_no_label_identifies_a_caller(watched: RunningHub) -> None:
    """Neither integrations nor guilds, keys, users or subscriptions, nor methods that strangers make up."""
    integration, reader = await watched.register("TICKET_CREATED")
    stream = await reader.subscribe(subscription_id="subscription-of-somebody")
    await watched.emit(created("event-of-somebody"))
    await stream.events(1)
    made_up: Any = watched.channel.unary_unary("/tickets.hub.v1.EventService/MadeUp", None, None)
    with pytest.raises(grpc.aio.AioRpcError):
        await made_up(b"", metadata=watched.bot.metadata)
    for path in ("/made-up", "/metrics?made-up"):
        await get(watched.hub.http.port, path)
    text = (await get(watched.hub.http.port, "/metrics")).text
    key_ids = [caller.key.split("_")[2] for caller in (watched.admin, watched.bot, reader)]
    named = [integration.integration_id, integration.owner_user_id, GUILD, "53908232506183680", *key_ids]
    for word in (*named, "somebody", "MadeUp", "made-up"):
        assert word not in text
    assert 'hub_http_requests_total{path="other",status="404"}' in text


async def test_the_first_scrape_has_every_series_that_alerts_use(tmp_path: Path) -> None:
    """Each level of the log and each limit has a number from the start: the first error is an increase of 0."""
    async with serving(cwd=tmp_path, HUB_HTTP_LISTEN="127.0.0.1:0") as hub:
        found = await scrape(hub.log[-1]["http_port"])
    levels = {sample.labels["level"]: sample.value for sample in found.families["hub_log_lines"].samples}
    assert {"warning": 0, "error": 0, "critical": 0}.items() <= levels.items()
    used = {sample.labels["setting"]: sample.value for sample in found.families["hub_limit_used"].samples}
    assert used.keys() == {sample.labels["setting"] for sample in found.families["hub_limit"].samples}
    assert {"max_concurrent_calls": 0, "max_open_calls": 0, "max_streams": 0}.items() <= used.items()


def test_lost_log_lines_are_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look adds what was lost since the one before it."""
    with os.fdopen(os.open("/dev/full", os.O_WRONLY), "w") as full:
        file = logs.BackgroundFile(full.fileno())
        monkeypatch.setattr(sys, "stderr", file)
        before = metrics.LOG_LINES_DROPPED.values[()]
        for lost in (1, 2):
            file.write("a line\n")
            while file.dropped < lost:
                os.sched_yield()
            for _ in range(2):
                logs.count_dropped()
                assert metrics.LOG_LINES_DROPPED.values[()] == before + lost
        file.finish(PATIENCE)


async def test_a_disconnected_reader_falls_behind(start_hub: StartHub) -> None:
    """A committed reader is behind by the age of what it has not seen, also after a restart; then it loses events."""
    clock = FakeClock()
    first = await start_hub(clock, http_listen="127.0.0.1:0")
    _, reader = await first.register("TICKET_CREATED")
    stream = await reader.subscribe()
    await first.emit(created("one"))
    await stream.events(1)
    request = event_service_pb2.CommitCursorRequest(cursor=stream.frames[-1].cursor)
    await reader.call("EventService/CommitCursor", request)
    stream.call.cancel()
    await until_ended(first)
    assert (await scrape(first.hub.http.port)).value("hub_reader_lag_max_seconds") == 0
    await first.emit(created("two"))
    await first.close()
    clock.wall_offset = round(0.9 * first.settings.retention * 1e6)
    again = await start_hub(clock, http_listen="127.0.0.1:0")
    found = await until_scraped(again.hub.http.port, "hub_readers_near_retention", 1)
    assert found.value("hub_readers_behind", seconds="3600") == 1
    assert found.value("hub_reader_lag_max_seconds") > 0.8 * first.settings.retention


async def until_ended(hub: RunningHub) -> None:
    """Wait until no stream is open."""
    async with asyncio.timeout(10):
        while hub.hub.streams.slots.count:  # noqa: ASYNC110  it tells nobody
            await asyncio.sleep(0.01)


async def test_openmetrics_is_supported(watched: RunningHub) -> None:
    """A scraper that accepts OpenMetrics gets it, with its end marker."""
    answer = await get(watched.hub.http.port, "/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_a_quantile_lies_within_its_bucket() -> None:
    """Between the bounds of the bucket that holds it; the last bound beyond all; 0 of nothing."""
    histogram = metrics.Histogram("x", "", (1, 2, 4))
    assert metrics.quantile(histogram, 0.5, histogram.counts()) == 0
    for value in (0.5, 1.5, 1.6, 3):
        histogram.add(value)
    assert 1 <= metrics.quantile(histogram, 0.5, histogram.counts()) <= 2
    histogram.add(100)
    assert metrics.quantile(histogram, 0.99, histogram.counts()) == 4

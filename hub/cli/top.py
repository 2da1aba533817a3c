"""``hub top``: the live status of a hub, in a terminal."""

import json
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import click
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from tickets.hub.v1.hub_status_pb2 import HubStatus, Latency, ReaderStatus, StoreStatus
from tickets_hub import Client, HubCallError, Policy
from tickets_hub.watching import watch_hub

from hub.cli.connection import ConnectionOptions, connection_options, describe, fail, open_client
from hub.cli.output import echo
from hub.text import escaped

KEY = "HUB_ADMIN_KEY"

RETRY = 2.0
"""Seconds until a hub that does not answer is called again."""

WARN_LAG = 60.0
"""Seconds of lag from which a reader is shown in yellow."""

LITTLE = 0.1
"""The free part of a disk below which it is shown in red."""


@click.command(short_help="Show the live status of a hub.")
@connection_options(KEY)
@click.option(
    "--interval", type=click.FloatRange(1, 60), default=2.0, show_default=True, help="seconds between two updates"
)
@click.option("--once", is_flag=True, help="print the status once")
@click.option("--json", "as_json", is_flag=True, help="print HubStatus messages as lines of JSON")
def top(interval: float, once: bool, as_json: bool, **connection: Any) -> None:  # noqa: ANN401, FBT001  the fields of ConnectionOptions; click passes everything by name
    """Show rates, latencies, the store, streams, endpoints, the readers furthest behind and keys that expire soon.

    It needs an admin's key. With several hubs it shows the one that answers.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    with (
        suppress(KeyboardInterrupt, BrokenPipeError),
        open_client(ConnectionOptions(**connection), KEY, Policy()) as client,
    ):
        try:
            if as_json or once:
                _print(watch_hub(client, interval), once=once, as_json=as_json)
            else:
                _watch(client, interval)
        except HubCallError as error:
            fail(error)


def _print(statuses: Iterator[HubStatus], *, once: bool, as_json: bool) -> None:
    for status in statuses:
        echo(json_line(status) if as_json else page_text(status))
        if once:
            return


def _watch(client: Client, interval: float) -> None:
    """Draw until interrupted; a hub that goes away is called again, one that never answered is not."""
    was_there = False
    with Live(console=Console(), screen=True, auto_refresh=False) as live:
        while True:
            try:
                for status in watch_hub(client, interval):
                    was_there = True
                    live.update(page(status), refresh=True)
            except HubCallError as error:
                if not was_there or error.code != "UNAVAILABLE":
                    raise
                live.update(Text(f"the hub does not answer, retrying: {describe(error)}", "red"), refresh=True)
            time.sleep(RETRY)


def json_line(status: HubStatus) -> str:
    """A status as JSON, spelt as in the contract."""
    content = MessageToDict(status, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    return json.dumps(content)


def page_text(status: HubStatus) -> str:
    """The page as text, coloured on a terminal."""
    console = Console()
    with console.capture() as captured:
        console.print(page(status))
    return captured.get().rstrip("\n")


def page(status: HubStatus) -> Group:
    """The whole page of a status."""
    parts = [_facts(status), *_tables(status)]
    return Group(*(one for part in parts for one in (part, Text(""))))


def _facts(status: HubStatus) -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, value in (
        ("hub", f"{status.version} on {status.replica}, up {span(status.uptime)}"),
        ("store", _store(status.store)),
        ("events/s", _rates(status)),
        ("append", f"{_latency(status.append)}; groups of {status.group_entries:.1f}"),
        ("commit", _latency(status.commit)),
        ("emits", ", ".join(f"{one.count} {one.reason or one.status}" for one in status.emits) or "none"),
        ("streams", _counts(status.streams)),
        ("endpoints", _endpoints(status.endpoints)),
        ("window", f"{size(status.window.bytes)} of {size(status.window.max_bytes)}"),
        ("pages", f"{size(status.pages.bytes)} of {size(status.pages.max_bytes)}"),
        ("event loop", f"{span(status.loop_lag_p99)} late (p99)"),
    ):
        grid.add_row(Text(name, "bold"), value if isinstance(value, Text) else Text(escaped(value)))
    return grid


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if count) or "none"


def _endpoints(counts: Mapping[str, int]) -> Text:
    return Text(escaped(_counts(counts)), "yellow" if counts.get("FAILING") else "")


def _rates(status: HubStatus) -> str:
    applied, accepted = f"{status.events_per_second:,.1f} in", f"{status.accepted_per_second:,.1f} accepted here"
    return f"{applied}, {accepted}, {status.delivered_per_second:,.1f} delivered"


def _store(store: StoreStatus) -> Text:
    if store.failed:
        return Text("FAILED: restart the hub", "bold red")
    state = "current" if store.current else f"SILENT for {span(store.silence)}"
    told_of = f"{store.kind}, {state}, at {store.position}"
    style = "" if store.current and not store.damaged_entries else "bold red"
    if store.disk_size_bytes:
        told_of += f", {size(store.bytes)}, {size(store.disk_free_bytes)} of the disk free"
        style = style or ("red" if store.disk_free_bytes < LITTLE * store.disk_size_bytes else "")
    if store.damaged_entries:
        told_of += f", {store.damaged_entries} entries DAMAGED"
    return Text(escaped(told_of), style)


def _tables(status: HubStatus) -> Iterable[Table]:
    readers = _table(f"readers furthest behind, of {status.reader_count}", "lag", "integration", "reader", "")
    for one in status.readers:
        seconds = one.lag.ToTimedelta().total_seconds()
        readers.add_row(
            Text(span(one.lag), "yellow" if seconds > WARN_LAG else ""),
            *(Text(escaped(text)) for text in (f"{one.integration_name} {one.integration_id}", *_reader(one))),
        )
    yield readers
    if status.expiring_keys:
        keys = _table("keys that expire soon, without a successor", "ends", "key", "holder", "")
        for key in status.expiring_keys:
            cells = (key.expire_time.ToJsonString(), key.key_id, key.holder, key.integration_id or "service key")
            keys.add_row(*(Text(escaped(text), "yellow") for text in cells))
        yield keys


def _reader(one: ReaderStatus) -> tuple[str, str]:
    """The name of a reader, and its status."""
    if not one.endpoint_id:
        return one.subscription_id, ("open" if one.connected else "away") + (", commits" if one.committed else "")
    notes = f"FAILING since {one.failing_since.ToJsonString()}" if one.HasField("failing_since") else "delivers"
    return f"endpoint {one.endpoint_id}", notes


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table


def _latency(latency: Latency) -> str:
    return f"p50 {span(latency.p50)}, p99 {span(latency.p99)}"


def span(length: Duration) -> str:
    """A duration for people: "1.2 ms", "3 s", "2 h 5 min"."""
    seconds = length.ToTimedelta().total_seconds()
    if seconds < 1:
        return f"{seconds * 1_000:.1f} ms"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, hours, days = seconds // 60 % 60, seconds // 3600 % 24, seconds // 86_400
    if days:
        return f"{days:.0f} d {hours:.0f} h"
    return f"{hours:.0f} h {minutes:.0f} min" if hours else f"{minutes:.0f} min"


def size(count: float) -> str:
    """Bytes for people: "1.5 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"

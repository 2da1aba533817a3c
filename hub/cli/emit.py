"""``hub emit``: one event from flags, or many from lines of JSON."""

import codecs
import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import ParseDict, ParseError
from tickets.hub.v1.event_pb2 import Event
from tickets.hub.v1.event_service_pb2 import EmitEventResponse
from tickets_hub import Client, HubCallError, Outbox, OutboxError, Policy, Rejected

from hub.cli.completion import complete_values
from hub.cli.connection import FAILED, ConnectionOptions, connection_options, describe, fail, open_client
from hub.cli.options import give_up
from hub.cli.output import echo
from hub.text import escaped

KEY = "HUB_BOT_KEY"
PAYLOADS = {field.name: field.message_type for field in Event.DESCRIPTOR.oneofs_by_name["payload"].fields}
KINDS = list(PAYLOADS)
FIELDS = {
    spelling: field
    for message in (Event.DESCRIPTOR, *PAYLOADS.values())
    for field in (message.fields if message is not None else ())
    for spelling in (field.name, field.json_name)
}
MUST_BE = {
    "Timestamp": "a time, such as 2030-01-31T12:00:00Z",
    FieldDescriptor.CPPTYPE_INT32: "a whole number of 32 bits",
    FieldDescriptor.CPPTYPE_INT64: "a whole number of 64 bits",
    FieldDescriptor.CPPTYPE_STRING: "a string",
    FieldDescriptor.CPPTYPE_BOOL: "true or false",
}
BATCH = 1_000
CHUNK = 1024 * 1024
LONGEST_LINE = 256 * 1024
"""Bytes: more than any event that the hub would store."""
INTERRUPTED = 130
HAND_OVER = 10.0
"""Seconds to wait until the hub has the events of an outbox."""
UNCERTAIN = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL", "UNKNOWN"}
"""Statuses after which it is unknown whether the hub stored the events."""

Line = tuple[int, bytes]
"""A line: its number, from 1, and its text."""


@click.command(short_help="Emit events, one or many.")
@connection_options(KEY)
@click.argument("what", metavar="KIND|FILE|-", shell_complete=complete_values("|".join(KINDS)))
@click.argument("fields", nargs=-1, metavar="[FIELD=VALUE]...")
@click.option("--guild", metavar="ID", help="for a single event: the Discord server")
@click.option("--id", "event_id", metavar="ID", help="for a single event: its id; the hub stores each id once")
@click.option("--occur-time", metavar="TIME", help="for a single event: when it happened, such as 2030-01-31T12:00:00Z")
@click.option(
    "--outbox",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="keep events in this file until the hub has stored them; a later run with it sends the rest",
)
@click.option("-q", "--quiet", is_flag=True, help="print nothing for stored events")
def emit(  # noqa: PLR0913  what makes up an event
    what: str,
    fields: tuple[str, ...],
    guild: str | None,
    event_id: str | None,
    occur_time: str | None,
    outbox: Path | None,
    quiet: bool,  # noqa: FBT001  click passes everything by name
    **connection: Any,  # noqa: ANN401  the fields of ConnectionOptions
) -> None:
    """Emit events, and print for each its id, when it was accepted, and whether the hub had it already.

    \b
        hub emit ticket_closed --guild 81384788765712384 message_count=12
        hub emit - < events.jsonl

    Each line of a file (- is standard input) is an event in JSON, as in the contract's message Event, or a line of
    'hub tail --json'. At an invalid line the command stops: the events before it are stored, those after it are not.
    Give events an id if you may have to send them again: within the dedupe window (1 h by default) the hub
    stores each id once.

    With --outbox each event is stored once, and in order, even if this command or the hub is killed. An event that
    the hub refuses stays in the file as rejected, and the others are sent.
    """  # noqa: D301  click looks for the control character itself: lines that it is to leave as they are
    flags = {"id": event_id, "guild_id": guild, "occur_time": occur_time}
    one = event_of(what, fields, flags) if what in KINDS else None
    if one is None and (fields or any(flags.values())):
        raise click.UsageError(f"'{what}' is not a kind of event: {', '.join(KINDS)}")
    source = None if one else open_source(what)
    refused = list[Rejected]()
    kept = None if outbox is None else Outbox(outbox, on_rejected=refused.append)
    with open_client(ConnectionOptions(**connection), KEY, Policy(call_timeout=10), kept) as client:
        emitter = Emitter(client, quiet=quiet, done="stored" if outbox is None else "taken")
        if one:
            emitter.emit_one(one)
        elif source is not None:
            emitter.emit_lines(source)
        if outbox is not None:
            hand_over(client, outbox, refused)


def hand_over(client: Client, outbox: Path, refused: Sequence[Rejected]) -> None:
    """Wait a while for the hub to take the events of the outbox; then report what it refused and what is left."""
    client.close(HAND_OVER)
    for each in refused:
        click.echo(
            f"hub: {escaped(each.event.id)}: {describe(each.error)}; it is kept in {outbox}, as rejected", err=True
        )
    status = client.outbox
    if status.waiting:
        why = "" if status.failure is None else f": {describe(status.failure)}"
        click.echo(
            f"hub: {status.waiting} events wait in {outbox}; the next run with this file sends them{why}", err=True
        )
    if refused:
        sys.exit(FAILED)


def event_of(kind: str, fields: Sequence[str], flags: dict[str, str | None]) -> Event:
    """The event that the flags describe."""
    pairs = [field.partition("=") for field in fields]
    wrong = [name for name, equals, _ in pairs if not equals]
    if wrong or not flags["guild_id"]:
        raise click.UsageError("give the server with --guild" if not wrong else f"'{wrong[0]}' is not FIELD=VALUE")
    content = {name: value for name, value in flags.items() if value is not None}
    try:
        return parse(content | {kind: {name: value for name, _, value in pairs}})
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def parse(content: object) -> Event:
    """An event from JSON: an Event, or a line of `hub tail --json`. ValueError says what is wrong."""
    if isinstance(content, dict) and "event" in content and content.keys() <= {"event", "cursor"}:
        content = content["event"]
    if not isinstance(content, dict):
        raise ValueError("this is not a JSON object")  # noqa: TRY004  one kind of error for all that a line can be
    try:
        return ParseDict(content, Event())
    except ParseError as error:
        raise ValueError(escaped(reworded(str(error)))) from None


def reworded(text: str) -> str:
    """Protobuf's complaint about an event, in the contract's words."""
    if found := re.search(r'has no field named "(.*?)" at "Event\.?(\w*)"', text):
        message = (FIELDS[found[2]].message_type if found[2] in FIELDS else None) or Event.DESCRIPTOR
        known = ", ".join(field.name for field in message.fields) or "it has none"
        return f'there is no field "{found[1]}": {known}'
    if "multiple" in text:
        return f"an event has each field once, and one of {', '.join(KINDS)}"
    found = re.match(r"Failed to parse (\w+) field", text)
    if found is None or found[1] not in FIELDS:
        return text
    field = FIELDS[found[1]]
    kind = field.message_type.name if field.message_type else field.cpp_type
    return f'"{found[1]}" must be {MUST_BE.get(kind, "an object")}'


def open_source(what: str) -> int:
    """A file, or standard input, to read from."""
    if what == "-":
        return sys.stdin.fileno()
    try:
        return os.open(what, os.O_RDONLY)
    except FileNotFoundError:
        raise click.UsageError(f"'{what}' is neither a file nor a kind of event: {', '.join(KINDS)}") from None
    except OSError as error:
        give_up(f"{what}: {error.strerror}")


def read_lines(source: int) -> Iterator[list[Line]]:
    """The lines, in lists of those that have arrived: the first lines of a slow writer do not wait for later ones."""
    number, rest = 0, b""
    while True:
        chunk = os.read(source, CHUNK)
        *lines, rest = (rest + chunk).split(b"\n")
        if not number and lines:
            lines[0] = lines[0].removeprefix(codecs.BOM_UTF8)
        if not chunk and rest:
            lines, rest = [rest if number else rest.removeprefix(codecs.BOM_UTF8)], b""
        if len(rest) > LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        yield [(number + index, line) for index, line in enumerate(lines, 1) if line.strip()]
        number += len(lines)
        if not chunk:
            return


class WrongLine(Exception):
    """A line is not an event, or one that the hub refuses; the lines before it are stored."""

    def __init__(self, number: int, problem: str) -> None:
        super().__init__(f"line {number}: {problem}")


class Emitter:
    """Sends events, and reports the outcome of each."""

    def __init__(self, client: Client, *, quiet: bool, done: str = "stored") -> None:
        """`done`: the word for events whose call has returned, such as "stored"."""
        self._client = client
        self._quiet = quiet
        self._done = done
        self._stored = 0
        self._known = 0
        self._on_the_way: list[tuple[int, Event]] = []

    def emit_one(self, event: Event) -> None:
        """Send one event."""
        try:
            self._print_results([self._client.emit(event)])
        except HubCallError as error:
            fail(error)
        except OutboxError as error:
            give_up(str(error), FAILED)
        except BrokenPipeError:
            sys.exit(FAILED)

    def emit_lines(self, source: int) -> None:
        """Send all lines, in order; ends the program if one is wrong or the hub refuses it."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            for lines in read_lines(source):
                self._take(lines)
        except WrongLine as error:
            self._stop(str(error))
        except HubCallError as error:
            self._stop(describe(error), doubt=error.code in UNCERTAIN)
        except OutboxError as error:
            self._stop(str(error))
        except BrokenPipeError:
            self._on_the_way = []
            self._stop("standard output has no reader any more")
        except OSError as error:
            self._stop(f"reading: {error.strerror}")
        except KeyboardInterrupt:
            self._stop("interrupted", INTERRUPTED, doubt=True)
        click.echo(f"hub: {self._summary()}", err=True)

    def _take(self, lines: Sequence[Line]) -> None:
        """Send lines; if one is wrong, those before it."""
        batch: list[tuple[int, Event]] = []
        for number, line in lines:
            try:
                batch.append((number, read_line(line)))
            except ValueError as error:
                self._send_all(batch)
                raise WrongLine(number, str(error)) from None
        self._send_all(batch)

    def _send_all(self, batch: Sequence[tuple[int, Event]]) -> None:
        for start in range(0, len(batch), BATCH):
            self._send(batch[start : start + BATCH])

    def _send(self, batch: Sequence[tuple[int, Event]]) -> None:
        """Send the lines of one call; if the hub refuses one event, send those before it."""
        self._on_the_way = list(batch)
        try:
            results = self._client.emit_batch(event for _, event in batch)
        except HubCallError as error:
            index = culprit(error)
            if index is None:
                raise
            if index:
                self._send(batch[:index])
            raise WrongLine(batch[index][0], describe(error).replace(f"events[{index}].", "")) from None
        self._on_the_way = []
        self._print_results(results)

    def _print_results(self, results: Sequence[EmitEventResponse]) -> None:
        self._stored += len(results)
        self._known += sum(result.duplicate for result in results)
        if results and not self._quiet:
            echo("\n".join(result_line(result) for result in results))

    def _summary(self) -> str:
        known = f", {self._known} of them duplicates" if self._known else ""
        return f"{self._stored} event{'' if self._stored == 1 else 's'} {self._done}{known}"

    def _stop(self, problem: str, status: int = FAILED, *, doubt: bool = False) -> NoReturn:
        """End the program, and report what was stored."""
        lines = [number for number, _ in self._on_the_way] if doubt else []
        maybe = f"; lines {lines[0]} to {lines[-1]} may be stored, too" if lines else ""
        give_up(f"{problem}\n{self._summary()}{maybe}", status)


def read_line(line: bytes) -> Event:
    """The event of one line. ValueError says what is wrong with it."""
    if len(line) > LONGEST_LINE:
        raise ValueError("longer than any event")
    try:
        return parse(json.loads(line.decode()))
    except UnicodeDecodeError:
        raise ValueError("this is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"this is not JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise ValueError("this is nested too deeply") from None


def culprit(error: HubCallError) -> int | None:
    """Which event of a batch was refused, counted from 0; None if the refusal was not about one event."""
    named = [match for violation in error.violations if (match := re.match(r"events\[(\d+)\]", violation.field))]
    if named:
        return min(int(match[1]) for match in named)
    return int(error.metadata["index"]) if error.metadata.get("index", "").isdecimal() else None


def result_line(result: EmitEventResponse) -> str:
    """The outcome of one event; without a time, the hub does not have it yet."""
    if not result.HasField("accept_time"):
        return result.event_id
    return f"{result.event_id} {result.accept_time.ToJsonString()}{' duplicate' if result.duplicate else ''}"

"""``hub emit``: one event said by flags, or many as lines of JSON."""

import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import click
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import ParseDict, ParseError
from tickets.hub.v1.event_pb2 import Event
from tickets.hub.v1.event_service_pb2 import EmitEventResponse

from hub.cli.calling import FAILED, Calling, calling_options, fail, open_client, plain, told
from hub.cli.settling import give_up
from hub.client import Client, HubCallError, Policy

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
"""Bytes: more than any event takes that the hub would store."""
INTERRUPTED = 130
UNCERTAIN = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL", "UNKNOWN"}
"""Statuses that leave open whether the hub has stored the events."""

Line = tuple[int, bytes]
"""Its number, from 1, and its text."""


@click.command(short_help="Have events stored, one or many.")
@calling_options(KEY)
@click.argument("what", metavar="KIND|FILE|-")
@click.argument("fields", nargs=-1, metavar="[FIELD=VALUE]...")
@click.option("--guild", metavar="ID", help="of one event: the Discord server that it happened in")
@click.option("--id", "event_id", metavar="ID", help="of one event: its name, by which a repetition is known")
@click.option("--occur-time", metavar="TIME", help="of one event: when it happened, such as 2030-01-31T12:00:00Z")
@click.option("-q", "--quiet", is_flag=True, help="print no line for each event")
def emit(  # noqa: PLR0913  what makes up an event
    what: str,
    fields: tuple[str, ...],
    guild: str | None,
    event_id: str | None,
    occur_time: str | None,
    quiet: bool,  # noqa: FBT001  click passes everything by name
    **calling: Any,  # noqa: ANN401  the fields of Calling
) -> None:
    """Have events stored, and print for each its id, when it was accepted, and whether it was known before.

    \b
        hub emit ticket_closed --guild 81384788765712384 message_count=12
        hub emit - < events.jsonl

    A file (- is standard input) holds an event in JSON a line, as the contract spells Event, or a line of 'hub tail
    --json' of another hub. What stands before a line that is wrong is stored, nothing after it. Give events an id if
    you may want to send them again: within the dedupe window (1 h unless the hub is told otherwise) a known one is not
    stored twice.
    """  # noqa: D301  click looks for the control character itself: lines that it is to leave as they are
    said = {"id": event_id, "guild_id": guild, "occur_time": occur_time}
    one = event_of(what, fields, said) if what in KINDS else None
    if one is None and (fields or any(said.values())):
        raise click.UsageError(f"'{what}' is no kind of event: {', '.join(KINDS)}")
    source = None if one else open_source(what)
    with open_client(Calling(**calling), KEY, Policy(call_timeout=10)) as client:
        emitter = Emitter(client, quiet=quiet)
        if one:
            emitter.emit_one(one)
        elif source is not None:
            emitter.emit_lines(source)


def event_of(kind: str, fields: Sequence[str], said: dict[str, str | None]) -> Event:
    """The event that the flags say."""
    pairs = [field.partition("=") for field in fields]
    wrong = [name for name, equals, _ in pairs if not equals]
    if wrong or not said["guild_id"]:
        raise click.UsageError("it needs --guild" if not wrong else f"'{wrong[0]}' is not FIELD=VALUE")
    content = {name: value for name, value in said.items() if value is not None}
    try:
        return parse(content | {kind: {name: value for name, _, value in pairs}})
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def parse(content: object) -> Event:
    """An event from what JSON said: an Event, or a line of `hub tail --json`. ValueError says what is wrong."""
    if isinstance(content, dict) and "event" in content and content.keys() <= {"event", "cursor"}:
        content = content["event"]
    if not isinstance(content, dict):
        raise ValueError("this is no JSON object")  # noqa: TRY004  one kind of error for all that a line can be
    try:
        return ParseDict(content, Event())
    except ParseError as error:
        raise ValueError(plain(reworded(str(error)))) from None


def reworded(text: str) -> str:
    """What protobuf found wrong with an event, in the contract's words."""
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
        raise click.UsageError(f"'{what}' is no file, and no kind of event: {', '.join(KINDS)}") from None
    except OSError as error:
        give_up(f"{what}: {error.strerror}")


def read_lines(source: int) -> Iterator[list[Line]]:
    """The lines, as many at a time as are there: a program that writes them one by one is not waited for."""
    number, rest = 0, b""
    while True:
        chunk = os.read(source, CHUNK)
        *lines, rest = (rest + chunk).split(b"\n")
        if not chunk and rest:
            lines, rest = [rest], b""
        if len(rest) > LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        yield [(number + index, line) for index, line in enumerate(lines, 1) if line.strip()]
        number += len(lines)
        if not chunk:
            return


class WrongLine(Exception):
    """A line is no event, or not one that the hub stores; what stands before it is stored."""

    def __init__(self, number: int, problem: str) -> None:
        super().__init__(f"line {number}: {problem}")


class Emitter:
    """Sends events, and says what became of them."""

    def __init__(self, client: Client, *, quiet: bool) -> None:
        self._client = client
        self._quiet = quiet
        self._stored = 0
        self._known = 0
        self._on_the_way: list[tuple[int, Event]] = []

    def emit_one(self, event: Event) -> None:
        """Send one event."""
        try:
            self._tell([self._client.emit(event)])
        except HubCallError as error:
            fail(error)
        except BrokenPipeError:
            sys.exit(FAILED)

    def emit_lines(self, source: int) -> None:
        """Send all lines, in order; ends the program where one is wrong or the hub does not take them."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            for lines in read_lines(source):
                self._take(lines)
        except WrongLine as error:
            self._stop(str(error))
        except HubCallError as error:
            self._stop(told(error), doubt=error.code in UNCERTAIN)
        except BrokenPipeError:
            self._on_the_way = []
            self._stop("nobody reads standard output any more")
        except OSError as error:
            self._stop(f"reading: {error.strerror}")
        except KeyboardInterrupt:
            self._stop("interrupted", INTERRUPTED, doubt=True)
        click.echo(f"hub: {self._summary()}", err=True)

    def _take(self, lines: Sequence[Line]) -> None:
        """Send lines; of a wrong one those before it."""
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
        """Send one call's worth; where the hub refuses one event, send those before it."""
        self._on_the_way = list(batch)
        try:
            results = self._client.emit_batch(event for _, event in batch)
        except HubCallError as error:
            index = culprit(error)
            if index is None:
                raise
            if index:
                self._send(batch[:index])
            raise WrongLine(batch[index][0], told(error).replace(f"events[{index}].", "")) from None
        self._on_the_way = []
        self._tell(results)

    def _tell(self, results: Sequence[EmitEventResponse]) -> None:
        self._stored += len(results)
        self._known += sum(result.duplicate for result in results)
        if results and not self._quiet:
            click.echo("\n".join(result_line(result) for result in results))

    def _summary(self) -> str:
        known = f", {self._known} of them known before" if self._known else ""
        return f"{self._stored} event{'' if self._stored == 1 else 's'} stored{known}"

    def _stop(self, problem: str, status: int = FAILED, *, doubt: bool = False) -> NoReturn:
        """End, and leave nobody in doubt about what was stored."""
        lines = [number for number, _ in self._on_the_way] if doubt else []
        maybe = f"; whether lines {lines[0]} to {lines[-1]} are, too, is not known" if lines else ""
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
        raise ValueError(f"this is no JSON: {error.msg} at character {error.pos + 1}") from None
    except RecursionError:
        raise ValueError("this is nested too deeply") from None


def culprit(error: HubCallError) -> int | None:
    """Which event of a batch was refused, counted from 0; None where it was not for one of them."""
    named = [match for violation in error.violations if (match := re.match(r"events\[(\d+)\]", violation.field))]
    if named:
        return min(int(match[1]) for match in named)
    return int(error.metadata["index"]) if error.metadata.get("index", "").isdecimal() else None


def result_line(result: EmitEventResponse) -> str:
    """What became of one event."""
    return f"{result.event_id} {result.accept_time.ToJsonString()}{' duplicate' if result.duplicate else ''}"

"""`hub tail` and `hub emit`, as processes against a real hub."""

import asyncio
import fcntl
import ipaddress
import json
import os
import signal
import socket
import struct
import termios
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.json_format import ParseDict
from tickets.hub.v1 import admin_service_pb2, event_pb2, event_service_pb2, permissions_pb2

from hub.cli import main
from hub.cli.emit import parse
from hub.control import lifecycle
from hub.control.transactions import Intent
from hub.delivery.page_cache import EVENTS_ONLY
from hub.model import Caller, Role, ScopeRequestRecord
from tests.support.forks import ForkedProcess, fork
from tests.support.hubs import REGISTRATION, RunningHub, StartHub, scope_requests
from tests.support.processes import COMMAND, PATIENCE, Ended, Serving, serving

GUILD, OTHER_GUILD = "81384788765712384", "197038439483310086"


async def begin(*words: str, variables: dict[str, str], stdout: int = PIPE) -> Process | ForkedProcess:
    """Start a command of the hub, with these HUB_ variables and no others."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HUB_")}
    if stdout == PIPE:
        return await fork(words, Path.cwd(), inherited | variables)
    return await asyncio.create_subprocess_exec(
        *COMMAND, *words, env=inherited | variables, stdin=PIPE, stdout=stdout, stderr=PIPE
    )


async def ended(process: Process | ForkedProcess, stdin: str | bytes = b"") -> Ended:
    """Give a process its input and wait for its end."""
    given = stdin.encode() if isinstance(stdin, str) else stdin
    async with asyncio.timeout(PATIENCE):
        out, err = await process.communicate(given)
    assert process.returncode is not None
    assert b"Traceback" not in err
    return Ended(process.returncode, (out or b"").decode(), err.decode())


async def line_of(stream: asyncio.StreamReader | None) -> str:
    """The next line that a process writes; empty at its end."""
    assert stream is not None
    async with asyncio.timeout(PATIENCE):
        return (await stream.readline()).decode().rstrip("\n")


async def emit(hub: RunningHub, *words: str, stdin: str | bytes = b"") -> Ended:
    """Run `hub emit` as the bot."""
    process = await begin("emit", "--address", hub.address, *words, variables={"HUB_BOT_KEY": hub.keys[Role.BOT]})
    return await ended(process, stdin)


async def tail(hub: RunningHub, key: str, *words: str) -> Ended:
    """Run `hub tail` as an integration, to its end."""
    return await ended(await begin("tail", "--address", hub.address, *words, variables={"HUB_KEY": key}))


@asynccontextmanager
async def looking(address: str, key: str, *words: str) -> AsyncIterator[Process | ForkedProcess]:
    """A `hub tail` that is open; it is killed where it has not ended by itself."""
    process = await begin("tail", "--address", address, *words, variables={"HUB_KEY": key})
    try:
        assert (await line_of(process.stderr)).startswith("-- open: ")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def closed(count: int, *, id: str = "", guild_id: str = GUILD) -> event_pb2.Event:  # noqa: A002  the contract's name
    """A closed ticket."""
    return event_pb2.Event(id=id, guild_id=guild_id, ticket_closed=event_pb2.TicketClosed(message_count=count))


def json_lines(*events: dict[str, Any]) -> str:
    """Lines for `hub emit -`."""
    return "".join(json.dumps(event) + "\n" for event in events)


def numbered(number: int, **fields: Any) -> dict[str, Any]:  # noqa: ANN401  any JSON value
    """A closed ticket as JSON, named by its number."""
    return {"id": f"n{number}", "guild_id": GUILD, "ticket_closed": {"message_count": number}} | fields


async def stored(hub: RunningHub) -> list[event_pb2.Event]:
    """The events in the log, in order."""
    page = await hub.hub.log.read(0, 100_000, EVENTS_ONLY)
    return [event_pb2.Event.FromString(entry.body) for entry in page.entries]


# What is shown.


async def test_every_kind_of_event_by_flags(hub: RunningHub) -> None:
    """Each is emitted by flags, answered with id and time, and shown on a line; other kinds are withheld."""
    _, reader = await hub.register(
        "TICKET_CREATED", "TRANSCRIPT_CREATED", "DROP_CLAIMED", "MEMBER_VERIFIED", "TICKET_STATS"
    )
    said = {
        "ticket_created creator_user_id=5": "ticket_created      creator_user_id=5",
        "transcript_created creator_user_id=6": "transcript_created  creator_user_id=6",
        "drop_claimed xp_amount=7": "drop_claimed        xp_amount=7 unb_amount=0",
        "member_verified user_id=8": "member_verified",
        "ticket_closed message_count=12": "ticket_closed       message_count=12",
    }
    for number, words in enumerate(said):
        answer = await emit(hub, *words.split(), "--guild", GUILD, "--id", f"e{number}")
        name, time = answer.out.split()
        assert (answer.code, answer.err, name) == (0, "", f"e{number}")
        assert datetime.fromisoformat(time).tzinfo is not None
    shown = await tail(hub, reader.key, "--from", "earliest", "--count", "5")
    assert [line.split(GUILD)[1].strip() for line in shown.out.splitlines()] == list(said.values())
    assert {line.split()[1] for line in shown.out.splitlines()} == {GUILD}
    assert shown.code == 0
    assert "without member_verified.user_id" in shown.err


async def test_a_repeated_event_is_marked_as_a_duplicate(hub: RunningHub) -> None:
    """An event sent twice with one id is answered with the first time and marked; it is stored once."""
    words = ("ticket_closed", "--guild", GUILD, "--id", "x", "--occur-time", "2030-01-31T12:00:00Z", "message_count=1")
    first, second = [await emit(hub, *words) for _ in range(2)]
    assert second.out == f"{first.out.rstrip()} duplicate\n"
    [event] = await stored(hub)
    assert event.occur_time.ToJsonString() == "2030-01-31T12:00:00Z"


async def test_a_cursor_of_a_json_line_resumes_right_after_it(hub: RunningHub) -> None:
    """Each line of --json is its event, spelt as in the contract; its cursor given to --from brings the next ones."""
    _, reader = await hub.register("TICKET_STATS")
    for number in range(4):
        await hub.emit(closed(number, id=f"e{number}"))
    lines = (await tail(hub, reader.key, "--from", "earliest", "--json", "--count", "4")).out.splitlines()
    shown = [json.loads(line) for line in lines]
    events = [ParseDict(line["event"], event_pb2.Event()) for line in shown]
    assert [(event.id, event.ticket_closed.message_count) for event in events] == [(f"e{n}", n) for n in range(4)]
    assert shown[0]["event"]["ticket_closed"] == {"message_count": 0}
    for number in range(3):
        rest = await tail(hub, reader.key, "--from", shown[number]["cursor"], "--json", "--count", str(3 - number))
        ids = [json.loads(line)["event"]["id"] for line in rest.out.splitlines()]
        assert ids == [f"e{n}" for n in range(number + 1, 4)]


async def test_from_a_time_and_from_the_committed_place(hub: RunningHub) -> None:
    """--from takes a time, and "committed" of a subscription that committed; without a place that is an error."""
    _, reader = await hub.register("TICKET_STATS")
    await hub.emit(closed(1))
    second = await hub.emit(closed(2))
    time = second.accept_time.ToJsonString()
    shown = await tail(hub, reader.key, "--from", time, "--count", "1")
    assert shown.out.endswith("message_count=2\n")
    line = json.loads((await tail(hub, reader.key, "--from", "earliest", "--json", "--count", "1")).out)
    commit = event_service_pb2.CommitCursorRequest(cursor=line["cursor"], subscription_id="nightly")
    nothing = await tail(hub, reader.key, "--from", "committed")
    assert (nothing.code, "(SUBSCRIPTION_NOT_FOUND)" in nothing.err) == (1, True)
    await reader.call("EventService/CommitCursor", commit)
    shown = await tail(hub, reader.key, "--from", "committed", "--subscription", "nightly", "--count", "1")
    assert shown.out.endswith("message_count=2\n")


async def test_tail_can_be_narrowed_to_scopes_and_guilds(hub: RunningHub) -> None:
    """--scope and --guild show only what they name; each may be repeated."""
    _, reader = await hub.register("TICKET_STATS", "TICKET_CREATED", "MEMBER_VERIFIED")
    for guild in (GUILD, OTHER_GUILD, "5"):
        created = event_pb2.Event(guild_id=guild, ticket_created=event_pb2.TicketCreated(creator_user_id="1"))
        await hub.emit(created)
        await hub.emit(closed(1, guild_id=guild))
    flags = (
        "--scope",
        "SCOPE_TICKET_STATS",
        "--guild",
        OTHER_GUILD,
        "--guild",
        "5",
        "--from",
        "earliest",
        "--count",
        "2",
    )
    shown = await tail(hub, reader.key, *flags)
    assert [line.split()[1:3] for line in shown.out.splitlines()] == [
        [OTHER_GUILD, "ticket_closed"],
        ["5", "ticket_closed"],
    ]


async def test_tail_does_not_disturb_running_readers(hub: RunningHub) -> None:
    """A look leaves the running reader "default" alone; of two looks with one name the older ends and says why."""
    _, reader = await hub.register("TICKET_STATS")
    running = await reader.subscribe()
    async with looking(hub.address, reader.key) as first, looking(hub.address, reader.key):
        gone = await ended(first)
        assert gone.code == 1
        assert gone.err.startswith("hub: a newer stream of the subscription 'tail' took over")
        assert gone.err.endswith("(SUBSCRIPTION_TAKEN_OVER)\n")
        await hub.emit(closed(7))
        assert (await running.events(1))[0].ticket_closed.message_count == 7


async def test_tail_supports_linger(hub: RunningHub) -> None:
    """With --linger the hub gathers events, and each still has a line of its own."""
    _, reader = await hub.register("TICKET_STATS")
    async with looking(hub.address, reader.key, "--linger", "0.3", "--count", "2") as process:
        [stream] = hub.hub.streams.all()
        assert stream.subscriber.options.linger == 0.3
        for count in (1, 2):
            await hub.emit(closed(count))
        shown = await ended(process)
        assert [line.split()[-1] for line in shown.out.splitlines()] == ["message_count=1", "message_count=2"]


async def test_tail_prints_notices_to_standard_error(hub: RunningHub) -> None:
    """A change of scopes goes to standard error, in words, and without colours if that is not a terminal.

    A reason that was stored before its rule came is shown escaped.
    """
    integration, reader = await hub.register("TICKET_STATS")
    async with looking(hub.address, reader.key) as look:
        by = Caller(Role.ADMIN, "", "", "AdminService/SetScopes", "")
        wanted = (ScopeRequestRecord(permissions_pb2.SCOPE_TICKET_CREATED, "x"),)
        await hub.hub.changes.update_integration(
            Intent(by, "they \x1b[31masked\u202e"),
            integration.integration_id,
            lambda record: lifecycle.set_scopes(record, wanted, 1, ""),
        )
        told = await line_of(look.stderr)
        assert told == "-- granted: ticket_created; taken away: ticket_stats (they \\x1b[31masked\\u202e)"
        look.send_signal(signal.SIGINT)
        assert (await ended(look)).out == ""


# How a look ends.


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_tail_cleanly(hub: RunningHub, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end it with status 0 and no output."""
    _, reader = await hub.register("TICKET_STATS")
    async with looking(hub.address, reader.key) as look:
        look.send_signal(number)
        assert await ended(look) == Ended(0, "", "")


async def test_tail_ends_when_its_output_is_closed(hub: RunningHub) -> None:
    """With status 0, also while no event arrives."""
    _, reader = await hub.register("TICKET_STATS")
    read_end, write_end = os.pipe()
    look = await begin("tail", "--address", hub.address, stdout=write_end, variables={"HUB_KEY": reader.key})
    os.close(write_end)
    assert (await line_of(look.stderr)).startswith("-- open: ")
    os.close(read_end)
    assert (await ended(look)).code == 0


async def test_tail_of_many_events_ends_when_its_output_is_closed(hub: RunningHub) -> None:
    """`hub tail | head -1` over thousands of events ends with status 0 and no complaint."""
    _, reader = await hub.register("TICKET_STATS")
    events = [closed(number) for number in range(1_000)]
    for _ in range(5):
        request = event_service_pb2.BatchEmitEventsRequest(events=events)
        await hub.bot.call("EventService/BatchEmitEvents", request)
    read_end, write_end = os.pipe()
    size = fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4_096)
    words = ("tail", "--address", hub.address, "--from", "earliest")
    look = await begin(*words, stdout=write_end, variables={"HUB_KEY": reader.key})
    os.close(write_end)
    async with asyncio.timeout(PATIENCE):
        while waiting_in(read_end) < size - 100:  # noqa: ASYNC110  until a write is what fails; a pipe tells nobody
            await asyncio.sleep(0.01)
    os.close(read_end)
    assert await ended(look) == Ended(0, "", "-- open: ticket_stats\n")


def waiting_in(pipe: int) -> int:
    """How many bytes wait in a pipe."""
    (count,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return int(count)


async def test_tail_survives_a_restart_of_the_hub(tmp_path: Path) -> None:
    """It reports the restart, and continues with the next event."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    async with serving(cwd=tmp_path, HUB_LISTEN=address) as hub:
        keys = await hub.first_keys()
        key = await new_integration(hub, keys["HUB_ADMIN_KEY"])
        async with looking(address, key) as look:
            await hub.stop()
            assert await line_of(look.stderr) == "-- the hub says goodbye: the hub is shutting down"
            assert "(DRAINING)" in await line_of(look.stderr)
            async with serving(cwd=tmp_path, HUB_LISTEN=address) as again:
                while not (line := await line_of(look.stderr)).startswith("-- open: "):
                    assert line.startswith("-- the stream broke")
                bot = again.caller(keys["HUB_BOT_KEY"])
                await bot.call("EventService/EmitEvent", event_service_pb2.EmitEventRequest(event=closed(3)))
                assert (await line_of(look.stdout)).endswith("message_count=3")


async def new_integration(hub: Serving, admin_key: str) -> str:
    """The key of a new integration of a hub that is another process."""
    fields: dict[str, Any] = REGISTRATION | {"scopes": scope_requests("TICKET_STATS")}
    request = admin_service_pb2.RegisterIntegrationRequest(**fields)
    reply = await hub.caller(admin_key).call("AdminService/RegisterIntegration", request)
    return str(reply.key.secret)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--scope", "ticket_created"), "hub: not granted: ticket_created; .*(SCOPE_NOT_GRANTED)"),
        (("--guild", "x"), "hub: guild_ids[0]: must be a Discord id.*(INVALID_REQUEST)"),
        (("--from", "A" * 64), "hub: the cursor is not valid.*(CURSOR_INVALID)"),
        (("--key", "tkt_x"), "hub: unknown key.*(KEY_UNKNOWN)"),
        (("--address", "127.0.0.1:1"), "hub: failed to connect.*(UNAVAILABLE)"),
    ],
)
async def test_refusals_of_the_hub_are_one_line(hub: RunningHub, words: tuple[str, str], complaint: str) -> None:
    """What the hub answers, or that it does not, is one line with the reason's name, and status 1."""
    _, reader = await hub.register("TICKET_STATS")
    refused = await tail(hub, reader.key, *words)
    [line] = refused.err.splitlines()
    start, end = complaint.split(".*")
    assert (refused.code, refused.out) == (1, "")
    assert line.startswith(start)
    assert line.endswith(end)


async def test_tail_reports_trimmed_history(hub: RunningHub) -> None:
    """It ends with CURSOR_EXPIRED; with --on-expired it reports the gap and continues."""
    _, reader = await hub.register("TICKET_STATS")
    await hub.emit(closed(1))
    line = json.loads((await tail(hub, reader.key, "--from", "earliest", "--json", "--count", "1")).out)
    for number in (2, 3):
        await hub.emit(closed(number))
    log = hub.hub.log
    last = (await log.bounds()).last
    reached = await log.trim(last, 1_000)
    hub.hub.feed.trimmed(reached, 0)
    gone = await tail(hub, reader.key, "--from", line["cursor"])
    assert (gone.code, gone.err.endswith("(CURSOR_EXPIRED)\n")) == (1, True)
    shown = await tail(hub, reader.key, "--from", line["cursor"], "--on-expired", "earliest", "--count", "1")
    assert (shown.code, shown.out.endswith("message_count=3\n")) == (0, True)
    assert "-- gap (retention): " in shown.err


# Keys and flags.


async def test_the_key_comes_from_a_file_or_a_variable(hub: RunningHub, tmp_path: Path) -> None:
    """The flag overrides the file, the file the variable; a missing key is an error; no key is printed."""
    _, reader = await hub.register("TICKET_STATS")
    await hub.emit(closed(1))
    file = tmp_path / "key"
    file.write_text(reader.key + "\n")
    file.chmod(0o600)
    words = ("tail", "--address", hub.address, "--from", "earliest", "--count", "1")
    cases = [
        (("--key-file", str(file)), {"HUB_KEY": "wrong"}, 0),
        (("--key", reader.key, "--key-file", "nowhere"), {}, 0),
        ((), {"HUB_KEY": reader.key}, 0),
        (("--key", "wrong", "--key-file", str(file)), {"HUB_KEY": reader.key}, 1),
        ((), {}, 2),
        (("--key-file", "nowhere"), {"HUB_KEY": reader.key}, 2),
    ]
    for (
        flags,
        variables,
        code,
    ) in cases:  # in turn: together they would take over from each other
        run = await ended(await begin(*words, *flags, variables=variables))
        assert run.code == code, run.err
        assert reader.key not in run.out + run.err


async def test_help_warns_of_keys_on_the_command_line(hub: RunningHub) -> None:
    """--help says which reader a look is, and that a key on the command line is seen by others."""
    text = " ".join((await tail(hub, "", "--help")).out.split())
    assert "[default: tail]" in text
    assert '"default" is the name of a reader without one' in text
    assert "others can see it in the process list" in text


@pytest.mark.parametrize(
    ("command", "words", "complaint"),
    [
        ("tail", ("--from", "earlest"), "'earlest' is neither latest, earliest, committed"),
        ("tail", ("--from", "2030-01-31T12:00:00"), "is not a time with a zone"),
        ("tail", ("--scope", "tickets"), "there is no scope 'tickets'; there are ticket_created"),
        ("tail", ("--key", ""), "no key: export HUB_KEY"),
        ("tail", ("--tls-ca", "nowhere.pem"), "nowhere.pem: No such file"),
        ("tail", ("--tls-ca", __file__), "TLS: the files are not a CA"),
        ("tail", ("--tls-key", __file__), "go together"),
        ("tail", ("--linger", "1", "--json"), "--linger and --json exclude each other"),
        ("tail", ("--linger", "6"), "6.0 is not in the range 0<=x<=5"),
        ("emit", ("ticket_closd", "--guild", "1"), "is not a kind of event: ticket_created"),
        ("emit", ("nowhere.jsonl",), "is neither a file nor a kind of event: ticket_created"),
        ("emit", ("ticket_closed", "message_count=1"), "give the server with --guild"),
        ("emit", ("ticket_closed", "--guild", "1", "12"), "'12' is not FIELD=VALUE"),
        ("emit", ("ticket_closed", "--guild", "1", "messages=1"), 'no field "messages": message_count'),
        ("emit", ("ticket_closed", "--guild", "1", "message_count=many"), '"message_count" must be a whole number'),
        ("emit", ("ticket_closed", "--guild", "1", "--occur-time", "noon"), '"occur_time" must be a time, such as'),
        ("tail", ("--address", "hub.example"), "must be host:port, such as 127.0.0.1:50051"),
        ("emit", ("ticket_closed", "--guild", "1", "--address", ":50051"), "must be host:port, such as"),
    ],
)
def test_wrong_flags_make_no_call(
    command: str, words: tuple[str, ...], complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They end with status 2 and the reason; at the address there is no hub."""
    for variable in ("HUB_KEY", "HUB_BOT_KEY"):
        monkeypatch.setenv(variable, "tkt_x")
    wrong = CliRunner().invoke(main, [command, "--address", "127.0.0.1:1", *words])
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert complaint in wrong.stderr


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ({"guild": "1"}, 'there is no field "guild": id, occur_time, '),
        ({"ticketClosed": {"count": 1}}, 'there is no field "count": message_count'),
        ({"guild_id": 5}, '"guild_id" must be a string'),
        ({"test": "yes"}, '"test" must be true or false'),
        ({"ticket_closed": 5}, '"ticket_closed" must be an object'),
        ({"drop_claimed": {"xp_amount": "1.5"}}, '"xp_amount" must be a whole number of 64 bits'),
        ({"ticket_closed": {}, "ticket_created": {}}, "an event has each field once, and one of ticket_created, "),
    ],
)
def test_an_invalid_line_is_reported_in_the_terms_of_the_contract(content: object, complaint: str) -> None:
    """What protobuf says of a wrong field names neither its types nor Python's."""
    with pytest.raises(ValueError, match=complaint):
        parse(content)


async def test_the_address_can_come_from_a_variable(hub: RunningHub) -> None:
    """HUB_ADDRESS says where the hub is, unless --address does."""
    variables = {"HUB_BOT_KEY": hub.keys[Role.BOT], "HUB_ADDRESS": hub.address}
    answer = await ended(await begin("emit", "ticket_closed", "--guild", GUILD, variables=variables))
    assert (answer.code, len(await stored(hub))) == (0, 1)


async def test_tls_ca_reaches_a_hub_with_a_private_certificate(start_hub: StartHub, tmp_path: Path) -> None:
    """Without it nothing is sent to the server that answers."""
    certificate, key = self_signed(tmp_path)
    hub = await start_hub(tls_certificate=certificate, tls_key=key)
    words = ("emit", "--address", hub.address, "ticket_closed", "--guild", "1")
    trusted, plaintext = await asyncio.gather(
        *[
            ended(await begin(*words, *more, variables={"HUB_BOT_KEY": hub.keys[Role.BOT]}))
            for more in (("--tls-ca", str(certificate)), ())
        ]
    )
    assert (trusted.code, trusted.err) == (0, "")
    assert (plaintext.code, plaintext.out, plaintext.err.endswith("(UNAVAILABLE)\n")) == (1, "", True)


def self_signed(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key, as files."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hub")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = directory / "hub.pem", directory / "hub.key"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    files[1].chmod(0o600)
    return files


# Many events.


async def test_many_events_are_stored_in_order(hub: RunningHub) -> None:
    """Thousands of lines, in either spelling of JSON, are stored in their order and answered one by one."""
    lines = [numbered(n) for n in range(1_250)]
    lines += [{"id": f"n{n}", "guildId": GUILD, "ticketClosed": {"messageCount": str(n)}} for n in range(1_250, 2_500)]
    answer = await emit(hub, "-", stdin=json_lines(*lines).replace("\n", "\n\n", 3).rstrip("\n"))
    assert (answer.code, answer.err) == (0, "hub: 2500 events stored\n")
    assert [line.split()[0] for line in answer.out.splitlines()] == [f"n{n}" for n in range(2_500)]
    events = await stored(hub)
    assert [(event.id, event.ticket_closed.message_count) for event in events] == [(f"n{n}", n) for n in range(2_500)]


async def test_emitting_a_file_twice_stores_nothing_twice(hub: RunningHub, tmp_path: Path) -> None:
    """The second run reports duplicates only; --quiet leaves only the summary."""
    file = tmp_path / "events.jsonl"
    file.write_text(json_lines(numbered(1), numbered(2)))
    first = await emit(hub, str(file))
    again = await emit(hub, str(file))
    quiet = await emit(hub, str(file), "--quiet")
    assert first.err == "hub: 2 events stored\n"
    assert again.out == "".join(f"{line} duplicate\n" for line in first.out.splitlines())
    assert (quiet.out, quiet.err) == ("", "hub: 2 events stored, 2 of them duplicates\n")
    assert len(await stored(hub)) == 2


async def test_lines_of_tail_are_input_for_emit(start_hub: StartHub, tmp_path: Path) -> None:
    """The lines of `hub tail --json` are lines for `hub emit`: the events arrive as they were, times too."""
    one, other = await start_hub(), await start_hub(data_dir=tmp_path / "other")
    _, reader = await one.register("TICKET_STATS")
    for number in (1, 2):
        await one.emit(closed(number, id=f"e{number}"))
    shown = await tail(one, reader.key, "--from", "earliest", "--json", "--count", "2")
    assert (await emit(other, "-", stdin=shown.out)).code == 0
    events = await stored(other)
    assert [event.id for event in events] == ["e1", "e2"]
    times = [json.loads(line)["event"]["occur_time"] for line in shown.out.splitlines()]
    assert [event.occur_time.ToJsonString() for event in events] == times


async def test_a_line_is_sent_as_soon_as_it_is_written(hub: RunningHub) -> None:
    """A program that writes now and then is not waited for: its line is answered while its output is open."""
    process = await begin("emit", "--address", hub.address, "-", variables={"HUB_BOT_KEY": hub.keys[Role.BOT]})
    assert process.stdin is not None
    process.stdin.write(json_lines(numbered(1)).encode() + b'{"id": "n2", "gui')
    assert (await line_of(process.stdout)).startswith("n1 ")
    process.stdin.write(b'ld_id": "5", "ticket_closed": {}}\n')
    assert (await line_of(process.stdout)).startswith("n2 ")
    assert (await ended(process)).err == "hub: 2 events stored\n"


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        (b"nonsense", "line 3: this is not JSON: Expecting value at character 1"),
        (b'"a text"', "line 3: this is not a JSON object"),
        (b"[" * 100_000, "line 3: this is nested too deeply"),
        (b'{"id": "\xff"}', "line 3: this is not UTF-8"),
        (b'{"guild_id": "1", "ticket_closd": {}}', "line 3: "),
        (b'{"guild_id": "' + b"1" * 300_000 + b'"}', "line 3: longer than any event"),
        (b'{"guild_id": "x", "ticket_closed": {}}', "line 3: guild_id: must be a Discord id"),
        (b'{"guild_id": "1"}', "line 3: "),
        (b'{"id": "n1", "guild_id": "2", "ticket_closed": {}}', "line 3: the id 'n1' already names an event"),
    ],
)
async def test_a_wrong_line_is_named(hub: RunningHub, wrong: bytes, complaint: str) -> None:
    """Lines before a wrong one are stored and answered, none after it is; the error has the line's number."""
    await hub.emit(closed(1, id="n1"))
    lines = json_lines(numbered(7)).encode() + b"\n" + wrong + b"\n" + json_lines(numbered(8)).encode()
    answer = await emit(hub, "-", stdin=lines)
    told, summary = answer.err.splitlines()
    assert (answer.code, summary) == (1, "hub: 1 event stored")
    assert told.startswith(f"hub: {complaint}")
    assert [line.split()[0] for line in answer.out.splitlines()] == ["n7"]
    assert [event.id for event in await stored(hub)] == ["n1", "n7"]


async def test_an_endless_line_is_refused(hub: RunningHub) -> None:
    """What is longer than any event is refused without waiting for its end: it is not kept in memory until then."""
    process = await begin("emit", "--address", hub.address, "-", variables={"HUB_BOT_KEY": hub.keys[Role.BOT]})
    assert process.stdin is not None
    process.stdin.write(json_lines(numbered(1)).encode() + bytes(1_000_000))
    assert await line_of(process.stderr) == "hub: line 2: longer than any event"
    assert await line_of(process.stderr) == "hub: 1 event stored"
    process.stdin.close()
    async with asyncio.timeout(PATIENCE):
        assert await process.wait() == 1


async def test_an_error_in_the_first_line_stores_nothing(hub: RunningHub) -> None:
    """The error says that nothing was stored."""
    answer = await emit(hub, "-", stdin=json_lines(numbered(1, guild_id="x"), numbered(2)))
    assert (answer.code, answer.out, answer.err.splitlines()[1]) == (1, "", "hub: 0 events stored")
    assert await stored(hub) == []


async def test_an_outbox_keeps_lines_while_the_hub_is_away(hub: RunningHub, tmp_path: Path) -> None:
    """The next run sends them; refused lines are reported and moved to the table."""
    file, variables = tmp_path / "outbox.db", {"HUB_BOT_KEY": hub.keys[Role.BOT]}
    away = await begin("emit", "--address", "127.0.0.1:1", "--outbox", str(file), "-", variables=variables)
    answer = await ended(away, json_lines(numbered(1), numbered(2)))
    assert (answer.code, answer.out) == (0, "n1\nn2\n")
    assert "2 events taken" in answer.err
    assert f"2 events wait in {file}; the next run with this file sends them: failed to connect" in answer.err
    answer = await emit(hub, "--outbox", str(file), "-", stdin=json_lines(numbered(3, guild_id="x"), numbered(4)))
    assert (answer.code, answer.out) == (1, "n3\nn4\n")
    assert "hub: n3: " in answer.err
    assert f"it is kept in {file}, as rejected" in answer.err
    assert "wait in" not in answer.err
    again = await emit(hub, "--outbox", str(file), "ticket_closed", "--guild", GUILD, "--id", "n5")
    assert (again.code, again.out, again.err) == (0, "n5\n", "")
    known = await emit(hub, "-", stdin=json_lines(numbered(9)))
    assert known.code == 0
    assert [event.id for event in await stored(hub)] == ["n1", "n2", "n4", "n5", "n9"]


async def test_a_killed_hub_leaves_no_line_unaccounted(tmp_path: Path) -> None:
    """Lines that were on the way when the hub died are named as such; those answered before are counted as stored."""
    async with serving(cwd=tmp_path) as hub:
        keys = await hub.first_keys()
        words = ("emit", "--address", f"127.0.0.1:{hub.port}", "-")
        process = await begin(*words, variables={"HUB_BOT_KEY": keys["HUB_BOT_KEY"]})
        assert process.stdin is not None
        process.stdin.write(json_lines(numbered(1)).encode())
        assert (await line_of(process.stdout)).startswith("n1 ")
        hub.process.kill()
        await hub.process.wait()
        answer = await ended(process, json_lines(numbered(2), numbered(3)))
    told, summary = answer.err.splitlines()
    assert (answer.code, answer.out, told.endswith("(UNAVAILABLE)")) == (1, "", True)
    assert summary == "hub: 1 event stored; lines 2 to 3 may be stored, too"


async def test_ctrl_c_says_what_is_stored(hub: RunningHub) -> None:
    """Interrupted between lines it ends with status 130 and what was stored."""
    process = await begin("emit", "--address", hub.address, "-", variables={"HUB_BOT_KEY": hub.keys[Role.BOT]})
    assert process.stdin is not None
    process.stdin.write(json_lines(numbered(1)).encode())
    assert (await line_of(process.stdout)).startswith("n1 ")
    process.send_signal(signal.SIGINT)
    assert (await ended(process)) == Ended(130, "", "hub: interrupted\nhub: 1 event stored\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-",), "hub: standard output has no reader any more\nhub: 1 event stored\n"),
        (("ticket_closed", "--guild", "1"), ""),
    ],
)
async def test_emit_stops_if_its_output_cannot_be_written(hub: RunningHub, words: tuple[str, ...], said: str) -> None:
    """Where the answer cannot be printed the event is stored all the same, nothing more is, and the status is 1."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    variables = {"HUB_BOT_KEY": hub.keys[Role.BOT]}
    process = await begin("emit", "--address", hub.address, *words, stdout=write_end, variables=variables)
    os.close(write_end)
    assert await ended(process, json_lines(numbered(1))) == Ended(1, "", said)
    assert len(await stored(hub)) == 1


async def test_emit_needs_a_key_of_a_bot(hub: RunningHub) -> None:
    """An integration's key does not emit: one line, status 1, nothing stored."""
    _, reader = await hub.register("TICKET_STATS")
    refused = await emit(hub, "ticket_closed", "--guild", "1", "--key", reader.key)
    [line] = refused.err.splitlines()
    assert (refused.code, refused.out, line.endswith("(ROLE_NOT_ALLOWED)")) == (1, "", True)
    assert await stored(hub) == []


async def test_an_admin_tails_an_integration(hub: RunningHub) -> None:
    """With --integration and an admin's key: its view, one line an event; the audit trail has admin and reason."""
    integration, _ = await hub.register("TICKET_STATS")
    await hub.emit(closed(3, id="c1"))
    words = ("--integration", integration.integration_id, "--reason", "a complaint", "--from", "earliest", "--json")
    command = ("tail", "--address", hub.address, *words, "--count", "1")
    process = await begin(*command, variables={"HUB_ADMIN_KEY": hub.keys[Role.ADMIN]})
    gone = await ended(process)
    assert gone.code == 0, gone.err
    assert json.loads(gone.out)["event"]["id"] == "c1"
    trail = await hub.admin.call(
        "AdminService/ListAuditEntries",
        admin_service_pb2.ListAuditEntriesRequest(integration_id=integration.integration_id, method="Subscribe"),
    )
    assert [entry.reason for entry in trail.entries] == ["a complaint"]


async def test_wrong_flags_of_an_admins_tail_make_no_call(hub: RunningHub) -> None:
    """A name, a reason without an integration, an integration's own key variable: one line, nothing is opened."""
    integration, _ = await hub.register("TICKET_STATS")
    named = ("--integration", integration.integration_id, "--subscription", "x")
    for words, said in ((named, "exclude each other"), (("--reason", "x"), "--reason needs --integration")):
        gone = await tail(hub, hub.keys[Role.ADMIN], *words)
        assert gone.code != 0
        assert said in gone.err
    gone = await tail(hub, hub.keys[Role.ADMIN], "--integration", integration.integration_id)
    assert "export HUB_ADMIN_KEY" in gone.err

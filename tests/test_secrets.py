"""No file, log line or later reply has the secret of any key."""

import signal
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from google.protobuf.duration_pb2 import Duration
from tickets.hub.v1 import event_pb2, event_service_pb2
from tickets.hub.v1.permissions_pb2 import ROLE_ADMIN, ROLE_BOT

from hub import config, logs
from hub.control import keys
from tests.support.admin_calls import ask, registration, use
from tests.support.calls import fails
from tests.support.hubs import Caller
from tests.support.processes import Serving, serving

KEY = "tkt_integration_AbCdEfGhIjKl_0123456789abcdefghijABCDEFGHIJKLMN"


class Witness:
    """Sees a hub's life: every key that was shown, and everything else that the hub said."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.said: list[bytes] = []

    async def ask(self, caller: Caller, method: str, **fields: Any) -> Any:  # noqa: ANN401  of a request; its reply
        """Call AdminService, and note what it answered but the key that it shows."""
        reply = await ask(caller, method, **fields)
        if secret := "key" in reply.DESCRIPTOR.fields_by_name and reply.key.secret:
            self.shown.append(secret)
            reply.key.secret = ""
        self.said.append(reply.SerializeToString())
        return reply

    async def refused(self, call: Any) -> None:  # noqa: ANN401  anything that can be awaited
        """See a call fail, and note how."""
        error: Any = await fails(call)
        self.said += [str(error.details()).encode(), repr(error.trailing_metadata()).encode()]


def parts(key: str) -> list[bytes]:
    """What must be found nowhere: the whole key, and its secret part alone."""
    return [key.encode(), key.split("_")[3][: keys.SECRET_LENGTH].encode()]


def almost(key: str) -> list[str]:
    """Keys that are wrong by little: the end, one character, the role; one of them with a right checksum."""
    body, _, secret = key.rpartition("_")
    other = secret[:-7] + ("A" if secret[-7] != "A" else "B")
    forged = f"{body}_{other}"
    role = body.split("_")[1]
    swapped = key.replace(role, "bot" if role == "admin" else "admin", 1)
    return [key[:-1], f"{body}_{other}{secret[-6:]}", forged + keys.checksum(forged), swapped, key + "x"]


async def live(witness: Witness, hub: Serving, admin: Caller, bot: Caller) -> None:
    """Register, rotate, create, revoke, emit, subscribe, fail in many ways, and read everything back."""
    for number in range(3):
        made = await witness.ask(admin, "RegisterIntegration", **registration(display_name=f"n{number}"))
        one = {"integration_id": made.integration.integration_id}
        reader = hub.caller(witness.shown[-1])
        stream = await reader.subscribe()
        rotated = await witness.ask(admin, "RotateKey", **one, reason="routine")
        await use(hub.caller(witness.shown[-1]))
        event = event_pb2.Event(guild_id="41", ticket_created=event_pb2.TicketCreated(creator_user_id="7"))
        await bot.call("EventService/EmitEvent", event_service_pb2.EmitEventRequest(event=event))
        witness.said += [frame.SerializeToString() for frame in (*stream.frames, await stream.frame())]
        await witness.ask(admin, "RotateKey", **one, overlap=Duration())
        await witness.refused(_raised(await stream.ending()))
        await witness.refused(use(reader))
        await witness.ask(admin, "RevokeKey", **one, key_id=rotated.key.key_id, reason="leaked")
        await witness.ask(admin, "CreateServiceKey", role=(ROLE_BOT, ROLE_ADMIN)[number % 2], display_name=f"s{number}")
        await witness.refused(ask(hub.caller(witness.shown[-1]), "GetIntegration", integration_id="?"))
        await read_back(witness, admin, one)
    await guess(witness, hub)


async def _raised(error: grpc.aio.AioRpcError) -> None:
    raise error


async def guess(witness: Witness, hub: Serving) -> None:
    """Try keys that are almost right, and put right ones where they do not belong."""
    for key in witness.shown[:4]:
        for guessed in almost(key):
            await witness.refused(use(hub.caller(guessed)))
        misplaced = hub.caller("")
        misplaced.metadata = (("authorization", key),)
        await witness.refused(use(misplaced))


async def read_back(witness: Witness, admin: Caller, one: dict[str, str]) -> None:
    """Call every method that shows an integration or keys."""
    for method, fields in {
        "GetIntegration": one,
        "ListIntegrations": {},
        "ListAuditEntries": {},
        "ListKeys": one,
    }.items():
        await witness.ask(admin, method, **fields)
    await witness.ask(admin, "ListKeys")


async def test_no_secret_is_found_anywhere(tmp_path: Path) -> None:
    """After many calls, a crash and a restart the secrets of all keys appear only in the replies that made them."""
    witness = Witness()
    async with serving(cwd=tmp_path, HUB_LOG_LEVEL="debug") as hub:
        first = await hub.first_keys()
        witness.shown += first.values()
        admin, bot = hub.caller(first["HUB_ADMIN_KEY"]), hub.caller(first["HUB_BOT_KEY"])
        await live(witness, hub, admin, bot)
        crashed = await hub.stop(signal.SIGKILL)
    files = {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    assert len(files["hub.db-wal"]) > 0  # a crash leaves it for the next start: it is looked at, too
    async with serving(cwd=tmp_path, HUB_LOG_LEVEL="debug") as hub:
        await live(witness, hub, hub.caller(admin.key), hub.caller(bot.key))
        stopped = await hub.stop()
    files |= {f"{path.name} at the end": path.read_bytes() for path in (tmp_path / "data").iterdir()}
    said = {"logs": (crashed.err + stopped.err).encode(), "prints": (crashed.out + stopped.out).encode()}
    places = files | said | {f"reply {number}": reply for number, reply in enumerate(witness.said)}
    assert len(witness.shown) == 2 + 2 * 3 * 4
    assert b"refused" in places["logs"]
    assert witness.shown[-1].split("_")[2].encode() in files["hub.db-wal"] + files["hub.db at the end"]
    found = [
        (name, key) for key in witness.shown for part in parts(key) for name, held in places.items() if part in held
    ]
    assert found == []


@pytest.mark.parametrize("style", ["json", "console"])
def test_the_log_cuts_keys(capsys: pytest.CaptureFixture[str], style: str) -> None:
    """Should a key ever get into a line of the log its secret is cut off; its id stays, by which it can be revoked."""
    logs.configure("debug", style)
    try:
        raise ValueError(KEY)  # noqa: TRY301  so that there is a traceback
    except ValueError:
        structlog.get_logger().exception(f"with {KEY}", key=KEY, nested={"list": [KEY], "bytes": KEY.encode()})
    written = capsys.readouterr().err
    assert "tkt_integration_AbCdEfGhIjKl_" in written
    assert [part for part in parts(KEY) if part in written.encode()] == []


@pytest.mark.parametrize("url", ["nats://hub:pass/word@nats:4222", "NATS://hub:pass/word@nats:4222"])
def test_passwords_in_urls_are_masked(url: str) -> None:
    """A slash in the password, a scheme in capitals."""
    settings = config.load({"storage": url})
    assert "word" not in settings.storage
    assert settings.nats_password is not None
    assert settings.nats_password.get_secret_value() == "pass/word"

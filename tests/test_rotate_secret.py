"""Rotation of the hub's secret: keys and cursors keep working, and after every crash the hub starts."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest

from hub import config
from hub.archive.migration import export_log
from hub.control.audit import encode_change
from hub.control.hub_secret import HubSecret, choose
from hub.control.transactions import COMMAND_LINE
from hub.crypto import derived_secrets
from hub.delivery.cursor import CursorSeal
from hub.errors import CursorInvalid, StartError
from hub.model import Cursor, Entry, Kind
from hub.privacy.erasing import Eraser
from hub.state import SECRET_KEY
from hub.storage import open_storage
from hub.storage.sqlite.data_directory import DataDirectory
from hub.storage.sqlite.log import SqliteLog
from hub.storage.sqlite.store import SqliteStore
from tests.support.admin_calls import ask, registration, use
from tests.support.hubs import StartHub, require_embedded, until
from tests.support.privacy import USER, by, done, erase_user
from tests.support.processes import Ended, Serving, run_hub, serving

FIRST, SECOND = "the first secret of this hub, set by its operator", "the second one, which its operator rotates to"


async def first_keys(tmp_path: Path, **variables: str) -> dict[str, str]:
    """Make a store; its keys."""
    ended = await run_hub("init", cwd=tmp_path, **variables)
    assert ended.code == 0, ended.err
    return ended.keys


async def rotate(tmp_path: Path, *words: str, **variables: str) -> Ended:
    """Run the command."""
    return await run_hub("rotate-secret", *words, cwd=tmp_path, **variables)


async def works(hub: Serving, key: str) -> bool:
    """Whether a key opens the hub: a refusal for its role means that it does."""
    try:
        await use(hub.caller(key))
    except grpc.aio.AioRpcError as error:
        return error.code() is not grpc.StatusCode.UNAUTHENTICATED
    return True


async def test_keys_and_cursors_survive_rotations(tmp_path: Path) -> None:
    """Twice another secret that the store makes: each key works and moves to the newest one at its next use."""
    keys = await first_keys(tmp_path)
    async with serving(cwd=tmp_path) as hub:
        made = await ask(hub.caller(keys["HUB_ADMIN_KEY"]), "RegisterIntegration", **registration())
        stream = await hub.caller(made.key.secret).subscribe()
        cursor = stream.frames[0].cursor
        await hub.stop()
    before = (tmp_path / "data" / "secret").read_text()
    for count in (1, 2):
        ended = await rotate(tmp_path)
        assert (ended.code, ended.out) == (
            0,
            f"the hub has a new secret, kept with the store; earlier secrets still accepted: {count}\n",
        )
        async with serving(cwd=tmp_path) as hub:
            assert await works(hub, keys["HUB_ADMIN_KEY"])
            stream = await hub.caller(made.key.secret).subscribe(cursor=cursor)
            assert stream.frames[0].HasField("ready")
            await hub.stop()
    assert (tmp_path / "data" / "secret").read_text() != before
    assert (await rotate(tmp_path, "--forget-earlier")).code == 0
    async with serving(cwd=tmp_path) as hub:
        assert await works(hub, keys["HUB_ADMIN_KEY"])  # it was used since
        assert not await works(hub, keys["HUB_BOT_KEY"])  # it was not
        await hub.stop()
    assert b"sealed" not in audit(tmp_path / "data" / "hub.db")


async def test_erasures_survive_rotations(start_hub: StartHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The earlier secret is kept until no erasure needs it; then the hub starts without it, and repeats its notices."""

    async def nothing(*_: object) -> None:
        """Work on no erasure."""

    hub = await start_hub()
    require_embedded(hub)
    _, reader = await hub.register("TICKET_CREATED")
    await hub.emit(by(USER, "mine"))
    await (await reader.subscribe(earliest={})).events(1)
    with monkeypatch.context() as patched:
        patched.setattr(Eraser, "_finish", nothing)
        erasure = await erase_user(hub)
        await hub.close()
        assert (await rotate(tmp_path)).code == 0
        await export_log(hub.settings, tmp_path / "x.export")
        assert "1 erasures still depend" in (await rotate(tmp_path, "--forget-earlier")).complaint
        hub = await start_hub()
        erasures = hub.hub.registry.hidden.erasures
        await until(lambda: not erasures.sealed_earlier())
        await hub.close()
    assert "1 erasures still depend" in (await rotate(tmp_path, "--forget-earlier")).complaint
    hub = await start_hub()
    await done(hub.admin, erasure.erasure_id)
    await hub.caller(reader.key).subscribe()  # its key moves to the secret in force
    await hub.close()
    await export_log(hub.settings, tmp_path / "y.export")
    assert (await rotate(tmp_path, "--forget-earlier")).code == 0
    hub = await start_hub()
    assert (await done(hub.admin, erasure.erasure_id)).events_erased == 1
    stream = await hub.caller(reader.key).subscribe()
    assert (await stream.frame()).erased.user_id == USER


def audit(database: Path) -> bytes:
    """What the trail shows of the changes of the secret."""
    connection = sqlite3.connect(database)
    bodies = [bytes(body) for (body,) in connection.execute("SELECT body FROM entries WHERE key = 'secret'")]
    connection.close()
    return b"".join(body.partition(b'"changes"')[2] for body in bodies)


@pytest.mark.parametrize("began_with", ["file", "setting"])
async def test_a_secret_moves_to_the_settings_and_back(tmp_path: Path, began_with: str) -> None:
    """From its own file to HUB_SECRET, to another HUB_SECRET, and back to a file."""
    first = {"HUB_SECRET": FIRST} if began_with == "setting" else {}
    old = tmp_path / "old"
    old.touch(mode=0o600)
    old.write_text(FIRST)
    keys = await first_keys(tmp_path, **first)
    words = ("--old-secret-file", "old") if first else ()
    assert (await rotate(tmp_path, *words, HUB_SECRET=SECOND)).code == 0
    assert not (tmp_path / "data" / "secret").exists()
    async with serving(cwd=tmp_path, HUB_SECRET=SECOND) as hub:
        assert await works(hub, keys["HUB_ADMIN_KEY"])
        await hub.stop()
    old.write_text(SECOND)
    assert (await rotate(tmp_path, "--old-secret-file", "old")).code == 0
    async with serving(cwd=tmp_path) as hub:
        assert await works(hub, keys["HUB_ADMIN_KEY"])
        await hub.stop()
    wrong = await run_hub("serve", cwd=tmp_path, HUB_SECRET=SECOND)
    assert "'hub rotate-secret'" in wrong.complaint


async def test_the_same_secret_moves_without_a_rotation(tmp_path: Path) -> None:
    """The digits of the secret file are good as HUB_SECRET, and the file is good again without it."""
    keys = await first_keys(tmp_path)
    digits = (tmp_path / "data" / "secret").read_text().strip()
    for variables in ({"HUB_SECRET": digits}, {}, {"HUB_SECRET_FILE": "data/secret"}):
        async with serving(cwd=tmp_path, **variables) as hub:
            assert await works(hub, keys["HUB_ADMIN_KEY"])
            await hub.stop()
        assert (
            await run_hub("backup", f"b{len(variables)}{'_FILE' in str(variables)}", cwd=tmp_path, **variables)
        ).code == 0


@pytest.mark.parametrize(
    ("words", "variables", "complaint"),
    [
        ((), {"HUB_SECRET": FIRST}, "is missing"),
        (("--old-secret-file", "wrong"), {"HUB_SECRET": SECOND}, "does not match the store"),
        (("--old-secret-file", "right"), {"HUB_SECRET": FIRST}, "the store has this secret already"),
        (("--old-secret-file", "short"), {"HUB_SECRET": SECOND}, "--old-secret-file: must have at least 32"),
        (("--old-secret-file", "none"), {"HUB_SECRET": SECOND}, "--old-secret-file: none: No such file"),
    ],
)
async def test_a_refused_rotation_changes_nothing(
    tmp_path: Path, words: tuple[str, ...], variables: dict[str, str], complaint: str
) -> None:
    """Without the secret that the store has, or to the same one: one line says why, and the old one still fits."""
    await first_keys(tmp_path, HUB_SECRET=FIRST)
    for name, text in {"wrong": SECOND + "!", "right": FIRST, "short": "short"}.items():
        (tmp_path / name).touch(mode=0o600)
        (tmp_path / name).write_text(text)
    assert complaint in (await rotate(tmp_path, *words, **variables)).complaint
    async with serving(cwd=tmp_path, HUB_SECRET=FIRST) as hub:
        await hub.stop()


async def test_a_store_in_use_is_not_rotated(tmp_path: Path) -> None:
    """The running hub continues; a rotation needs a store with keys."""
    assert "there is no store" in (await rotate(tmp_path)).complaint
    async with serving(cwd=tmp_path) as hub:
        assert "in use by another hub" in (await rotate(tmp_path)).complaint
        await hub.stop()


@pytest.mark.parametrize("step", ["file", "database"])
async def test_after_an_interrupted_rotation_the_hub_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """After each step: the old secret or the new one is in force, and the file has what is needed."""
    await first_keys(tmp_path)
    settings = config.load({"data_dir": str(tmp_path / "data")})
    log = await open_storage(settings)
    entries, _ = await log.snapshot()
    before = choose(await log.secrets(), entries)
    after = before.followed_by(b"n" * 32, 1)
    cut = {
        "file": (SqliteStore, "rotate_secret"),
        "database": (DataDirectory, "keep_secrets"),
    }
    calls: list[int] = []
    whole: Callable[..., object] = getattr(*cut[step])

    def killed(*arguments: object) -> object:
        calls.append(1)
        if step == "database" and len(calls) == 1:
            return whole(*arguments)
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(*cut[step], killed)
        with pytest.raises(KilledError):
            await rotate_by_hand(log, before, after)
    await log.close()
    async with serving(cwd=tmp_path) as hub:
        await hub.stop()
    fits = before.current if step == "file" else after.current
    assert (tmp_path / "data" / "secret").read_text() == fits.hex() + "\n"


class KilledError(Exception):
    """The process ends here."""


async def rotate_by_hand(log: object, before: HubSecret, after: HubSecret) -> None:
    """What the command has the store do."""
    assert isinstance(log, SqliteLog)
    entries, _ = await log.snapshot()
    [position] = [entry.position for entry in entries if entry.key == SECRET_KEY]
    body = encode_change(COMMAND_LINE, before.record, after.record, "test")
    await log.rotate_secret(
        after.current, Entry(Kind.STATE, 1, body, key=SECRET_KEY), {SECRET_KEY: position}, keep=True
    )


def test_the_log_holds_earlier_secrets_sealed() -> None:
    """Whoever has the newest secret has all of them, and no one else has any."""
    secret = HubSecret(b"a" * 32).followed_by(b"b" * 32, 5).followed_by(b"c" * 32, 7)
    assert secret.earlier == ((b"b" * 32, 7), (b"a" * 32, 5))
    assert not any(one in repr(secret) + repr(secret.record) for one in ("aaaa", "bbbb", "cccc"))
    with pytest.raises(StartError, match="does not match this store"):
        choose([b"d" * 32], [entry_of(secret)])
    assert choose([b"x" * 32, b"c" * 32], [entry_of(secret)]) == secret
    assert choose([b"x" * 32, b"c" * 32], []) == HubSecret(b"x" * 32)


def entry_of(secret: HubSecret) -> Entry:
    """The state entry of a secret."""
    return Entry(Kind.STATE, 1, encode_change(COMMAND_LINE, None, secret.record, ""), key=SECRET_KEY)


def test_cursors_of_earlier_secrets_open_as_long_as_they_are_accepted() -> None:
    """New ones are sealed under the newest secret alone."""
    old = CursorSeal(b"a" * 32).seal(Cursor(1, 2, 3)).decode()
    assert CursorSeal(b"b" * 32, [b"a" * 32]).open(old) == (1, 2, 3)
    with pytest.raises(CursorInvalid):
        CursorSeal(b"b" * 32).open(old)
    new = CursorSeal(b"b" * 32, [b"a" * 32]).seal(Cursor(1, 2, 3)).decode()
    assert CursorSeal(b"b" * 32).open(new) == (1, 2, 3)


def test_a_secret_is_a_text_or_hexadecimal_digits() -> None:
    """Hexadecimal digits also stand for the secret that a store has made for itself."""
    assert len(derived_secrets("a text")) == 1
    assert derived_secrets("ab" * 32)[1] == bytes.fromhex("ab" * 32)

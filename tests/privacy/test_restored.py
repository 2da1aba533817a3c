"""Stores that are restored from a time before an erasure: the list of erasures beside the store is applied to them."""

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from hub.archive.backup import back_up, restore
from hub.errors import StartError
from hub.privacy.erasure_file import ErasureFile
from tests.support.calls import ask, fails, reason_of
from tests.support.governance import arrived, opened
from tests.support.hubs import Caller, FakeClock, RunningHub, StartHub, require_embedded, until
from tests.support.privacy import LONGER, USER, by, done, erase_guild, erase_user, exported, occurrences


class Restorable:
    """A hub with an event of a user and one of another, which an integration has read; and a backup of that."""

    def __init__(self, start_hub: StartHub, clock: FakeClock, directory: Path) -> None:
        self._start_hub = start_hub
        self._clock = clock
        self.data, self.lost, self.backup = directory / "data", directory / "lost", directory / "x.bak"
        self.erasures = self.lost / "erasures"
        self.hub: RunningHub
        self.integration_id = self.key = ""

    async def begin(self) -> None:
        """Start the hub, fill it, and make the backup."""
        self.hub = await self.start()
        require_embedded(self.hub)
        integration, reader = await self.hub.register("TICKET_CREATED")
        self.integration_id, self.key = integration.integration_id, reader.key
        await self.hub.emit(by(USER, "mine"))
        await self.hub.emit(by(LONGER, "other", "52"))
        stream = await opened(reader, self.integration_id)
        assert await arrived(self.hub, self._clock, stream) == ["mine", "other"]
        await self.hub.hub.flush_sent()
        await asyncio.to_thread(back_up, self.hub.settings, self.backup)

    async def start(self) -> RunningHub:
        """The hub on whatever lies in the data directory now."""
        return await self._start_hub(self._clock, write_deadline=1e9)

    async def restored(self, erasures: Path | None) -> RunningHub:
        """The hub on what the backup holds, with a list of erasures or without."""
        await self.hub.close()
        self.data.rename(self.lost)
        await asyncio.to_thread(restore, self.hub.settings, self.backup, erasures)
        self.hub = await self.start()
        return self.hub

    def reader(self) -> Caller:
        """The integration, at the hub that runs now."""
        return self.hub.caller(self.key)

    async def delivered(self) -> list[str]:
        """The events that the integration gets now, from the oldest."""
        stream = await opened(self.reader(), self.integration_id, subscription_id="again")
        return await arrived(self.hub, self._clock, stream)


@pytest.fixture
async def store(start_hub: StartHub, clock: FakeClock, tmp_path: Path) -> Restorable:
    """A hub and a backup of it."""
    store = Restorable(start_hub, clock, tmp_path)
    await store.begin()
    return store


async def test_a_restored_backup_from_before_an_erasure_applies_it_again(store: Restorable) -> None:
    """Hidden from the start on, then overwritten; recipients get the notice again; other events stay."""
    erasure = await done(store.hub.bot, (await erase_user(store.hub, request_id="r")).erasure_id)
    hub = await store.restored(store.erasures)
    assert await store.delivered() == ["other"]
    again = await done(hub.bot, erasure.erasure_id)
    assert (again.events_erased, again.request_time) == (1, erasure.request_time)
    assert [notice.integration_id for notice in again.notices] == [store.integration_id]
    assert await exported(hub.admin, user_id=USER) == []
    assert occurrences(store.data, USER) == occurrences(store.data, LONGER) == 2  # the other user's, whose id is longer
    assert (await erase_user(hub, request_id="r")).erasure_id == erasure.erasure_id
    entries = (await ask(hub.admin, "AdminService/ListAuditEntries")).entries
    assert [entry.reason for entry in entries if "restored" in entry.reason] == [
        "the store was restored from a backup that is older than this erasure"
    ]


async def test_recipients_from_before_a_restore_are_still_known(store: Restorable) -> None:
    """The stream is opened again before the erasure is requested: what it was sent before the restore counts."""
    hub = await store.restored(None)
    stream = await opened(store.reader(), store.integration_id, latest={})
    erasure = await done(hub.bot, (await erase_user(hub)).erasure_id)
    assert [notice.integration_id for notice in erasure.notices] == [store.integration_id]
    del stream


async def test_a_restore_applies_the_erasure_of_a_guild_again(store: Restorable) -> None:
    """A guild's events are found by their guild."""
    erasure = await done(store.hub.bot, (await erase_guild(store.hub, "52")).erasure_id)
    hub = await store.restored(store.erasures)
    assert await store.delivered() == ["mine"]
    assert (await done(hub.bot, erasure.erasure_id)).events_erased == 1


async def test_the_erasures_file_can_be_added_later(store: Restorable) -> None:
    """The operator may bring the list later: what was emitted until then is covered, too."""
    await done(store.hub.bot, (await erase_user(store.hub)).erasure_id)
    hub = await store.restored(None)
    assert await store.delivered() == ["mine", "other"]
    await hub.close()
    store.erasures.rename(store.data / "erasures")
    store.hub = await store.start()
    assert await store.delivered() == ["other"]


async def test_an_erasure_without_events_in_the_backup_is_done(store: Restorable) -> None:
    """The user's first event came after the backup, or they never had one: there is nothing to erase."""
    await store.hub.emit(by("9", "late"))
    late = await erase_user(store.hub, "9")
    never = await erase_user(store.hub, USER[:-1])
    for erasure in (late, never):
        await done(store.hub.bot, erasure.erasure_id)
    hub = await store.restored(store.erasures)
    for erasure in (late, never):
        assert (await done(hub.bot, erasure.erasure_id)).events_erased == 0
    assert await store.delivered() == ["mine", "other"]


async def test_an_erasure_in_the_backup_is_not_applied_again(store: Restorable) -> None:
    """What a user did after they were forgotten stays, in a backup from after that."""
    erasure = await done(store.hub.bot, (await erase_user(store.hub)).erasure_id)
    await store.hub.emit(by(USER, "after"))
    store.backup = store.backup.with_name("y.bak")
    await asyncio.to_thread(back_up, store.hub.settings, store.backup)
    hub = await store.restored(store.erasures)
    assert await store.delivered() == ["other", "after"]
    assert (await done(hub.bot, erasure.erasure_id)).complete_time == erasure.complete_time


async def test_an_erasures_file_of_another_hub_is_refused(store: Restorable) -> None:
    """Its digests cannot be compared with anybody: the hub does not start, and serves nothing."""
    await done(store.hub.bot, (await erase_user(store.hub)).erasure_id)
    await store.hub.close()
    file = store.data / "erasures"
    [record] = ErasureFile.open(file).records.values()
    file.write_text(file.read_text().replace(record.check, "f" * len(record.check)).replace(record.erasure_id, "x"))
    with pytest.raises(StartError, match="another secret of the hub"):
        await store.start()


async def test_the_erasures_file_names_each_erasure_and_no_user(store: Restorable) -> None:
    """Each erasure once, readable by its owner only; a truncated line is repaired."""
    file = store.data / "erasures"
    first = await done(store.hub.bot, (await erase_user(store.hub, request_id="r")).erasure_id)
    await erase_user(store.hub, request_id="r")
    assert (list(ErasureFile.open(file).records), file.stat().st_mode & 0o777) == ([first.erasure_id], 0o600)
    assert USER not in file.read_text()
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:-10])
    kept = ErasureFile.open(file)
    [record] = kept.records.values()
    await kept.keep([replace(record, erasure_id="two"), record])
    assert (file.read_bytes()[: len(whole)], list(ErasureFile.open(file).records)) == (whole, [first.erasure_id, "two"])
    file.write_bytes(whole.replace(b"digest", b"dig"))
    with pytest.raises(StartError, match="is damaged"):
        ErasureFile.open(file)


async def test_a_missing_erasures_file_is_made_from_the_log(store: Restorable) -> None:
    """Where the list was lost, or an earlier version of the hub kept none."""
    erasure = await done(store.hub.bot, (await erase_user(store.hub)).erasure_id)
    await store.hub.close()
    file = store.data / "erasures"
    file.unlink()
    store.hub = await store.start()
    await until(file.exists)
    await until(lambda: list(ErasureFile.open(file).records) == [erasure.erasure_id])


async def test_an_erasure_is_acknowledged_once_it_is_in_the_file(store: Restorable) -> None:
    """The list cannot be written: the call fails, and the same request again is acknowledged once it can."""
    file = store.data / "erasures"
    file.mkdir()
    refusal = await fails(erase_user(store.hub, request_id="r"))
    assert reason_of(refusal) == "STORAGE_UNAVAILABLE"
    file.rmdir()
    erasure = await done(store.hub.bot, (await erase_user(store.hub, request_id="r")).erasure_id)
    assert list(ErasureFile.open(file).records) == [erasure.erasure_id]


async def test_a_failed_restore_leaves_no_erasures_file(store: Restorable, tmp_path: Path) -> None:
    """A list that is not there, or that is in the way: nothing is restored, what was there stays."""
    new = store.hub.settings.model_copy(update={"data_dir": tmp_path / "new"})
    with pytest.raises(StartError, match="No such file"):
        restore(new, store.backup, tmp_path / "missing")
    assert sorted(path.name for path in new.data_dir.iterdir()) == ["hub.lock"]
    (new.data_dir / "erasures").write_text("mine")
    with pytest.raises(StartError, match="exists already"):
        restore(new, store.backup, store.backup)
    assert sorted(path.name for path in new.data_dir.iterdir()) == ["erasures", "hub.lock"]
    assert (new.data_dir / "erasures").read_text() == "mine"

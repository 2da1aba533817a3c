"""The file of an export: whole or not there, and refused where a single byte of it is not as it was written."""

import json
import os
import re
import signal
import stat
from pathlib import Path

import pytest

from hub.archive.export import FORMAT, VERSION, Export, Header, Trailer, new_export
from hub.errors import StartError
from hub.model import Entry, Kind

HEADER = Header(FORMAT, VERSION, 5, 7, 1_000_000, b"check", b"secret")
ENTRIES = [
    Entry(Kind.STATE, 1, b'{"a": 1}', key="integration/ä", position=3),
    Entry(Kind.ERASED, 2, b"", position=8),
    Entry(Kind.EVENT, 2, b"\x00\xff\n", id="x", event_type=10, guild_id=2**63 - 1, position=9),
]


def write(file: Path, entries: list[Entry] = ENTRIES, header: Header = HEADER) -> Trailer:
    """Make an export; returns its trailer."""
    with new_export(file, header) as export:
        for entry in entries:
            export.add(entry)
    return export.trailer


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An export of three entries."""
    write(tmp_path / "x.export")
    return tmp_path / "x.export"


def test_an_export_file_is_read_back(tmp_path: Path) -> None:
    """Header, entries of every kind, trailer; the file is its owner's alone, and nothing lies beside it."""
    trailer = write(tmp_path / "x.export")
    export = Export.open(tmp_path / "x.export")
    assert (export.header, export.trailer) == (HEADER, trailer)
    assert list(export.entries()) == ENTRIES
    assert (trailer.entries, trailer.last_time) == (3, 2)
    assert stat.S_IMODE((tmp_path / "x.export").stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [tmp_path / "x.export"]


def test_a_file_that_was_cut_off_is_refused(file: Path) -> None:
    """Wherever the cut is; between two lines, too, where all that is left can be read."""
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(StartError, match=r"cut off|not an export|damaged"):
            Export.open(file)
    file.write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 1])
    with pytest.raises(StartError, match="is truncated"):
        Export.open(file)


def test_a_file_that_was_altered_is_refused(file: Path) -> None:
    """Whichever byte it is, the trailer's own included; and where something was put behind the end."""
    whole = file.read_bytes()
    for place in range(len(whole)):
        for bit in (1, 4, 128):
            file.write_bytes(whole[:place] + bytes((whole[place] ^ bit,)) + whole[place + 1 :])
            with pytest.raises(StartError):
                Export.open(file)
    for rest in (b"\n", b"x", whole):
        file.write_bytes(whole + rest)
        with pytest.raises(StartError, match="does not match its digest"):
            Export.open(file)


def test_missing_or_reordered_lines_are_refused(file: Path) -> None:
    """Lines that each can be read do not make an export if they are not those that were written, in their order."""
    first, *entries, trailer = file.read_bytes().splitlines(keepends=True)
    for lines in (entries[1:], entries[::-1], [*entries, entries[-1]]):
        file.write_bytes(b"".join([first, *lines, trailer]))
        with pytest.raises(StartError, match="does not match its digest"):
            Export.open(file)


def test_a_file_that_changes_during_the_import_is_refused(file: Path, tmp_path: Path) -> None:
    """It is looked through once more as it is read: also where another whole export took its place."""
    export = Export.open(file)
    write(tmp_path / "other", ENTRIES[:2])
    (tmp_path / "other").replace(file)
    with pytest.raises(StartError, match="changed during the import"):
        list(export.entries())


def test_another_version_is_refused(tmp_path: Path) -> None:
    """By its number, also where it has a form that this one cannot read."""
    file = tmp_path / "x.export"
    header = {"format": FORMAT, "version": 2, "new": {}}
    file.write_text(json.dumps({"header": header, "also new": 1}) + "\n")
    with pytest.raises(StartError, match=re.escape(f"has version 2, this hub reads {VERSION}")):
        Export.open(file)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"{}\n", b'{"header":{"format":"x","version":1}}\n', b"SQLite format 3"]
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    """A file that is not an export is named, with what makes one."""
    file = tmp_path / "x.export"
    file.write_bytes(content)
    with pytest.raises(StartError, match="is not an export: 'hub export' makes one"):
        Export.open(file)


def test_a_missing_file_is_reported_in_one_line(tmp_path: Path) -> None:
    """A name that is not there, or a directory's."""
    for name, complaint in (("nothing", "No such file"), ("", "Is a directory")):
        with pytest.raises(StartError, match=complaint):
            Export.open(tmp_path / name)


def test_nothing_is_overwritten(file: Path, tmp_path: Path) -> None:
    """A file that is there, or that comes while the export is being written, stays."""
    with pytest.raises(StartError, match="never overwrites a file: name another one"):
        write(file)
    with (
        pytest.raises(StartError, match="never overwrites a file: name another one"),
        new_export(tmp_path / "new", HEADER),
    ):
        (tmp_path / "new").write_text("somebody's")
    assert (tmp_path / "new").read_text() == "somebody's"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "x.export"]


def test_a_failed_export_leaves_no_file(tmp_path: Path) -> None:
    """An export that ends with an error leaves neither the file nor a part of it."""
    with pytest.raises(AttributeError), new_export(tmp_path / "x.export", HEADER) as export:
        export.add(None)  # type: ignore[arg-type]  # it fails
    assert list(tmp_path.iterdir()) == []


def test_a_killed_export_leaves_no_export_file(tmp_path: Path) -> None:
    """Killed with all entries written there is no file of that name, and what lies beside it is refused."""
    child = os.fork()
    if not child:
        with new_export(tmp_path / "x.export", HEADER) as export:
            for entry in ENTRIES * 1_000:
                export.add(entry)
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    [part] = tmp_path.iterdir()
    assert part.suffix == ".part"
    with pytest.raises(StartError, match="is truncated"):
        Export.open(part)

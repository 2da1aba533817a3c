"""The checks of `hub doctor` on the machine: data directory, disk, clock, ports, certificates, backups."""

import ctypes
import os
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from hub.addresses import OFF
from hub.api.tls import ENDS_SOON, NOT_TAKEN, is_taken, read_files, why_not_listening
from hub.archive.store_checks import Finding, running_hub
from hub.cli.healthcheck import ask
from hub.cli.top import size
from hub.config import Settings
from hub.delivery.overview import BACKUP_STAMP
from hub.errors import StartError

LITTLE = 0.1
"""Of a disk, that is free."""

NO_ROOM = 64 * 1024 * 1024
"""Bytes: with less the next events may be refused."""

REMOTE = {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "fuse.glusterfs", "lustre"}
"""File systems of other machines, on which locks and syncs do not mean what SQLite needs."""

NOT_SYNCHRONISED = 5
"""The kernel's state of a clock that is not synchronised (TIME_ERROR in adjtimex(2))."""

TIMEOUT = 3.0
"""Seconds that the running hub may take to accept a connection."""


def machine_findings(settings: Settings) -> Iterator[Finding]:
    """The findings about the machine, as far as the hub of these settings depends on it."""
    directory = settings.data_dir.absolute()
    if settings.storage == "sqlite":
        yield _directory(directory)
        yield _disk(directory)
        yield _backup(directory)
    yield clock(time.time(), _kernel_clock())
    holder = running_hub(directory)
    yield _listen("listen", settings.listen, holder)
    yield _http_listen(settings, holder)
    if settings.directory_listen != OFF:
        yield _listen("directory", settings.directory_listen, holder)
    yield from _certificates(settings)


def _directory(directory: Path) -> Finding:
    """Whether only the hub may write there, and the disk is local."""
    name = "data directory"
    if not directory.exists():
        return Finding(name, "warning", f"{directory} is missing: the first start makes it; or set data_dir")
    if trouble := _why_not_used(directory):
        return Finding(name, "problem", trouble)
    found = directory.stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        return Finding(name, "warning", f"other users can read {directory} (mode {mode:04o}): chmod 700 {directory}")
    if found.st_uid != os.geteuid():
        return Finding(name, "warning", f"{directory} belongs to another user: run this as the user of the hub")
    kind = file_system(directory, _mounts())
    return Finding(name, "ok", f"{directory}, mode {mode:04o}" + (f", {kind}" if kind else ""))


def _why_not_used(directory: Path) -> str:
    """Why no store can be kept there, and what to do; "" where one can."""
    if not directory.is_dir():
        return f"{directory} is not a directory: set data_dir to another path"
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        return f"{directory} cannot be written: run this, and the hub, as its owner"
    kind = file_system(directory, _mounts())
    return f"{directory} lies on {kind}: put it on a local disk" if kind in REMOTE else ""


def _mounts() -> list[tuple[str, str]]:
    """Mount points and the kinds of their file systems; none where the system does not list them."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [(words[1], words[2]) for words in map(str.split, lines)]


def file_system(directory: Path, mounts: list[tuple[str, str]]) -> str:
    """The kind of file system that a directory lies on; "" where the system does not say."""
    found = [(point, kind) for point, kind in mounts if directory.resolve().is_relative_to(point)]
    return max(found, key=lambda one: len(one[0]))[1] if found else ""


def _disk(directory: Path) -> Finding:
    """Whether there is room for events and the write-ahead log."""
    place = next(one for one in (directory, *directory.parents) if one.exists())
    total, _, free = shutil.disk_usage(place)
    text = f"{size(free)} of {size(total)} free"
    if free < NO_ROOM:
        return Finding("disk", "problem", f"{text}: free space: emits are refused with STORAGE_FULL")
    if free < LITTLE * total:
        return Finding("disk", "warning", f"{text}: free space before emits are refused")
    return Finding("disk", "ok", text)


def _backup(directory: Path) -> Finding:
    """Whether there is a backup of today."""
    stamp = directory / BACKUP_STAMP
    if not stamp.exists():
        return Finding(
            "backup", "warning", "there is none: run 'hub backup FILE' once a day, and keep the file elsewhere"
        )
    age = timedelta(seconds=max(0, round(time.time() - stamp.stat().st_mtime)))
    if age > timedelta(days=1):
        return Finding("backup", "warning", f"the last one is {age} old: run 'hub backup FILE' once a day")
    return Finding("backup", "ok", f"the last one is {age} old")


def _kernel_clock() -> int:
    """The kernel's state of its clock, see adjtimex(2); negative if unknown."""
    library = ctypes.CDLL(None)
    ask_kernel = getattr(library, "adjtimex", None) or getattr(library, "ntp_adjtime", None)
    return int(ask_kernel(ctypes.create_string_buffer(1024))) if ask_kernel is not None else -1


def clock(now: float, kernel: int) -> Finding:
    """Whether something keeps the machine's clock right; `kernel` as `_kernel_clock` gives it."""
    text = datetime.fromtimestamp(now, UTC).isoformat(" ", "seconds")
    if kernel == NOT_SYNCHRONISED:
        return Finding("clock", "warning", f"{text}, and nothing synchronizes it: run an NTP client, such as chrony")
    return Finding("clock", "ok", text + (", synchronized by NTP" if kernel >= 0 else ""))


def _listen(name: str, address: str, holder: str) -> Finding:
    """Whether the hub can have a port, or has it."""
    if holder:
        host, _, port = address.rpartition(":")
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))  # noqa: S104  compared only
        try:
            with closing(socket.create_connection((host, int(port)), TIMEOUT)):
                return Finding(name, "ok", f"{address}, where the running hub ({holder}) answers")
        except OSError as error:
            text = f"the hub runs ({holder}) and does not answer at {address}: {error}: give the settings of that hub"
            return Finding(name, "problem", text)
    why = why_not_listening(address)
    if why:
        text = f"cannot listen on {address}: {why.lower()}: stop what has it, or name another address"
        return Finding(name, "problem", text)
    return Finding(name, "ok", f"{address} is free")


def _http_listen(settings: Settings, holder: str) -> Finding:
    """The same of the operators' listener; one that runs says whether the hub serves."""
    address = settings.http_listen
    if address == OFF:
        return Finding("http_listen", "ok", "off: no metrics and no probes")
    if holder:
        answer = ask(settings, "/readyz")
        return Finding("http_listen", "ok" if answer.is_well else "problem", f"{address} says: {answer.text}")
    why = why_not_listening(address)
    if why:
        text = f"cannot listen on {address}: {why.lower()}: set another address, or 'off'"
        return Finding("http_listen", "problem", text)
    return Finding("http_listen", "ok", f"{address} is free")


def _certificates(settings: Settings) -> Iterator[Finding]:
    """Whether the TLS files are correct, and how long the certificate is valid."""
    try:
        files = read_files(settings)
    except StartError as error:
        yield Finding("certificate", "problem", str(error))
        return
    if files is None:
        yield Finding("certificate", "ok", "none: the hub serves without TLS")
        return
    if not is_taken(files):
        yield Finding("certificate", "problem", f"{settings.tls_certificate}: {NOT_TAKEN}")
    for file, pem in ((settings.tls_certificate, files.chain), (settings.tls_client_ca, files.authority)):
        for one in x509.load_pem_x509_certificates(pem) if pem else ():
            yield certificate(f"{file}, {one.subject.rfc4514_string()}", one, datetime.now(UTC))


def certificate(name: str, one: x509.Certificate, now: datetime) -> Finding:
    """Whether a certificate is valid at a time, and two weeks later."""
    begins, ends = one.not_valid_before_utc, one.not_valid_after_utc
    if ends <= now:
        return Finding("certificate", "problem", f"{name}, ended {ends}: renew it, then send SIGHUP to the hub")
    if begins > now:
        return Finding("certificate", "problem", f"{name}, is not valid before {begins}: set the clock, or renew it")
    if ends <= now + ENDS_SOON:
        return Finding("certificate", "warning", f"{name}, ends {ends}: renew it, then send SIGHUP to the hub")
    return Finding("certificate", "ok", f"{name}, ends {ends}")

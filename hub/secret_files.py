"""Files that hold a secret; refused if other users of the machine can read them."""

import os
import stat
from pathlib import Path

from hub.errors import StartError
from hub.text_files import decoded

_LONGEST = 64 * 1024
_SHORTEST_SECRET = 32


def refuse_exposed(path: Path, what: str) -> None:
    """Check that only its owner can read a file that holds a secret; a file of root may be read by its group, too.

    Args:
        path: the file; a missing one is left to the reader to report.
        what: names it in the error, such as "tls_key".

    Raises:
        StartError: others can read it.
    """
    try:
        found = path.stat()
    except OSError:
        return
    allowed = stat.S_IRWXG if found.st_uid == 0 else 0
    exposed = stat.S_IMODE(found.st_mode) & (stat.S_IRWXG | stat.S_IRWXO) & ~allowed
    if stat.S_ISREG(found.st_mode) and exposed:
        mode = stat.S_IMODE(found.st_mode)
        raise StartError(
            f"{what}: {path} contains a secret, and others can read it (mode {mode:04o}): chmod 600 {path}"
        )


def read_secret(path: Path, what: str) -> str:
    """The one line of text in a file that holds a secret, without the blanks around it.

    Raises:
        StartError: it cannot be read, holds nothing or more than one line, or others can read it.
    """
    refuse_exposed(path, what)
    try:
        with path.open("rb") as file:
            text = decoded(file.read(_LONGEST)).strip()
    except OSError as error:
        raise StartError(f"{what}: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise StartError(f"{what}: {path} is not a text file in UTF-8") from None
    if not text or not text.isprintable():
        raise StartError(f"{what}: {path} must contain only the secret, on one line")
    return text


def check_length(text: str) -> str:
    """Return the text if it is long enough for the hub's secret; otherwise ValueError says what it must be."""
    if len(text) < _SHORTEST_SECRET:
        raise ValueError(f"must have at least {_SHORTEST_SECRET} characters: 'openssl rand -hex 32' makes one")
    return text


def file_from_environment(variable: str) -> Path | None:
    """The file that a caller's variable with _FILE names: HUB_KEY_FILE for HUB_KEY."""
    name = os.environ.get(f"{variable}_FILE")
    return Path(name) if name else None

"""Text files that people write: editors put a byte order mark at their beginning, and some write UTF-16."""

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(file: Path) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        OSError: the file cannot be read.
        UnicodeDecodeError: it is not text in UTF-8 or, with its mark, in UTF-16.
    """
    return decoded(file.read_bytes())


def read_ascii(file: Path) -> bytes:
    """The text of a file that may hold only ASCII: a key, a secret, a certificate.

    Raises:
        OSError: the file cannot be read.
        UnicodeError: it holds something else.
    """
    return read_text(file).encode("ascii")


def decoded(data: bytes) -> str:
    """The text in some bytes, without a byte order mark.

    Raises:
        UnicodeDecodeError: they are not text in UTF-8 or, with its mark, in UTF-16.
    """
    return data.decode("utf-16" if data.startswith(_UTF_16) else "utf-8-sig")


@contextmanager
def without_mark(file: Path) -> Iterator[Path]:
    """The path of a file with the same text and no byte order mark, for libraries that read files themselves.

    Raises:
        OSError: the file cannot be read.
        UnicodeError: it has a mark and is not ASCII text.
    """
    if not file.read_bytes().startswith(_MARKS):
        yield file
        return
    with NamedTemporaryFile() as copy:  # for its owner alone
        copy.write(read_ascii(file))
        copy.flush()
        yield Path(copy.name)

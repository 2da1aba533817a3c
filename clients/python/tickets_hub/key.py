"""The key of a client: shown only to the hub, and replaceable while streams are open."""

from tickets_hub.failure import HubCallError

KeyMetadata = tuple[tuple[str, str | bytes], ...]


class ClientKey:
    """The key that calls carry from now on.

    Its text is in no ``repr`` and in no ``vars``. ``version`` grows with each replacement: a call that failed because
    its key had ended is worth another try when there is a newer one.
    """

    __slots__ = ("_text", "version")

    def __init__(self, text: str) -> None:
        self.version = 0
        self._text = checked(text)

    @property
    def metadata(self) -> KeyMetadata:
        """The metadata that every call carries."""
        return (("authorization", f"Bearer {self._text}"),)

    def replace(self, text: str) -> None:
        """Use another key from the next call on. ValueError for a text that cannot be a key."""
        self._text = checked(text)
        self.version += 1

    def __repr__(self) -> str:
        """The public part of the key: its role and its id, as ``ListKeys`` shows it."""
        parts = self._text.split("_")
        public = "_".join(parts[:3]) if len(parts) == 4 else ""
        return f"<{type(self).__name__} {public}_...>" if public else f"<{type(self).__name__}>"


def checked(text: str) -> str:
    """The text of a key. Raises ValueError for an empty or malformed key."""
    if not text or not text.isascii() or not text.isprintable():
        raise ValueError("the key is empty, or contains line breaks or other characters that no key has")
    return text


def is_key_ending(failure: HubCallError) -> bool:
    """Whether a call failed because its key has ended; a newer key helps."""
    return failure.reason in ("KEY_EXPIRED", "KEY_REVOKED")

"""What a call tells of its caller, for code that wants nothing else of gRPC."""

from typing import NamedTuple


class CallFrom(NamedTuple):
    """A call of a peer, in gRPC's words for it, with what proxies say about it."""

    text: str
    forwarded: tuple[str, ...] = ()

    def peer(self) -> str:
        """The other end of the connection."""
        return self.text

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        """The metadata of the call."""
        return [("user-agent", "test"), *(("x-forwarded-for", value) for value in self.forwarded)]

"""A model of the permission rules, written independently of the hub.

Written from the contract and docs/governance.md alone, in the plainest way: it keeps everything that ever happened and
evaluates it again for each question. Imports nothing of the hub.
"""

from dataclasses import dataclass, field

ALL, INSTALLED = 1, 2
FOREVER = float("inf")
NOT, WITHOUT, FULL = "not at all", "without the user", "in full"

DELIVERS = {
    "ticket_created": {"TICKET_CREATED"},
    "ticket_closed": {"TICKET_STATS"},
    "member_verified": {"MEMBER_VERIFIED", "MEMBER_VERIFIED_IDENTITY"},
}
"""By kind of event, the scopes of which any one delivers it."""


@dataclass
class Happened:
    """An event, and when."""

    event_id: str
    kind: str
    guild: str
    moment: int


@dataclass
class Integration:
    """An integration. Moments count what was done: a thing counts for what happens after its own.

    Attributes:
        excluded: by guild, the moment up to which it excludes the integration; infinite while it does.
        unshared: the same of guilds that share with nobody; one table for all integrations.
    """

    owner: str
    state: str
    access: int
    everywhere_since: int = 0
    granted: dict[str, int] = field(default_factory=dict)
    requested: set[str] = field(default_factory=set)
    agreed: dict[str, dict[str, int]] = field(default_factory=dict)
    excluded: dict[str, float] = field(default_factory=dict)
    unshared: dict[str, float] = field(default_factory=dict)

    def shows(self, event: Happened, guilds: tuple[str, ...] = ()) -> str:
        """How an event looks to it now, on a stream that asked for some guilds only (none named: all)."""
        if guilds and event.guild not in guilds:
            return NOT
        if event.moment <= max(hidden.get(event.guild, 0) for hidden in (self.excluded, self.unshared)):
            return NOT
        counting = {scope for scope, since in self.granted.items() if since < event.moment}
        if self.access == INSTALLED or event.moment <= self.everywhere_since:
            consent = self.agreed.get(event.guild, {})
            counting = {scope for scope in counting if scope in consent and consent[scope] < event.moment}
        if not counting & DELIVERS[event.kind]:
            return NOT
        identity = event.kind != "member_verified" or "MEMBER_VERIFIED_IDENTITY" in counting
        return FULL if identity else WITHOUT

    def grant(self, scopes: set[str], moment: int) -> None:
        """Have exactly these scopes: what stays keeps its moment."""
        self.granted = {scope: self.granted.get(scope, moment) for scope in scopes}

    def agree(self, guild: str, scopes: set[str], moment: int) -> None:
        """A guild agrees to these scopes, none named: to all; what stays keeps its moment."""
        if self.excluded.get(guild) == FOREVER:
            self.excluded[guild] = moment
        before = self.agreed.get(guild, {})
        self.agreed[guild] = {scope: before.get(scope, moment) for scope in scopes or self.granted}

    def exclude(self, guild: str) -> None:
        """A guild takes its consent back."""
        self.agreed.pop(guild, None)
        self.excluded[guild] = FOREVER

    def open_to(self, access: int, moment: int) -> None:
        """Other guild access; every guild counts from now on, not before."""
        if access == ALL and self.access == INSTALLED:
            self.everywhere_since = moment
        self.access = access


@dataclass
class Reader:
    """What a stream, over all its connections, has brought, and what of the rest it may bring.

    Attributes:
        seen: how each event looked, by id.
        may: how each other event may look when it comes: once for each view since it could have come.
    """

    guilds: tuple[str, ...]
    seen: dict[str, str] = field(default_factory=dict)
    may: dict[str, set[str]] = field(default_factory=dict)

    def take(self, event_id: str, look: str) -> None:
        """An event came."""
        assert event_id not in self.seen, f"{event_id} came twice"
        assert look in self.may.get(event_id, {NOT}), f"{event_id} came {look}, allowed was {self.may.get(event_id)}"
        self.seen[event_id] = look

    def changed(self, integration: Integration, events: list[Happened]) -> None:
        """Something was done: what was not seen yet may look as it does now, too."""
        for event in events:
            if event.event_id not in self.seen:
                self.may.setdefault(event.event_id, set()).add(integration.shows(event, self.guilds))

    def resumed(self, integration: Integration, events: list[Happened]) -> None:
        """It goes on after what it has seen: what was not seen looks as it does now, and in no other way."""
        self.may = {event_id: {look} for event_id, look in self.seen.items()}
        self.changed(integration, events)

    def complete(self) -> None:
        """It says that it brought everything: then what did not come must have been allowed not to."""
        for event_id, looks in self.may.items():
            assert event_id in self.seen or NOT in looks, f"{event_id} never came, though it had to {looks}"
            self.may[event_id] = {self.seen.get(event_id, NOT)}

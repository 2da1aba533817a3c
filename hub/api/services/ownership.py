"""Which integration a call is about, and whether it is the caller's: for developers, the bot and admins."""

from hub.api.access import caller, required
from hub.control.registry import Registry
from hub.control.transactions import Intent
from hub.control.versioned import Versioned
from hub.errors import IntegrationNotFound, InvalidRequest, NotOwner
from hub.model import Caller, IntegrationRecord, Role


class Ownership:
    """Finds the integrations of callers."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def overseen(self, integration_id: str, acting_user_id: str) -> tuple[Caller, Versioned[IntegrationRecord]]:
        """The caller and the integration: any for an admin, else as `own`.

        Raises:
            InvalidRequest: an admin names no integration, or a Discord user.
            What `own` raises.
        """
        by = caller()
        if by.role is not Role.ADMIN:
            return self.own(integration_id, acting_user_id)
        if acting_user_id:
            raise InvalidRequest.field("acting_user_id", "is for the bot: an admin cannot act for another user")
        return by, self._registry.integration(required(integration_id))

    def own(self, integration_id: str, acting_user_id: str) -> tuple[Caller, Versioned[IntegrationRecord]]:
        """The caller and the integration, which must be theirs.

        Raises:
            IntegrationNotFound: there is none, or (with an integration's key) it is another's.
            NotOwner: the user for whom the bot speaks does not own it.
            InvalidRequest: the bot names no user or no integration.
        """
        by = caller()
        if by.role is not Role.BOT:
            if integration_id not in ("", by.integration_id):
                raise IntegrationNotFound(integration_id)
            return by, self._registry.integration(by.integration_id)
        for field, value in (("integration_id", integration_id), ("acting_user_id", acting_user_id)):
            if not value:
                raise InvalidRequest.field(field, "is required when the bot speaks for a developer")
        own = self._registry.integration(integration_id)
        if own.record.owner_user_id != acting_user_id:
            raise NotOwner
        return by.on_behalf_of(acting_user_id), own

    def change(self, integration_id: str, acting_user_id: str) -> tuple[Caller, Versioned[IntegrationRecord]]:
        """Like `own`, for a change: refuses a blocked developer."""
        by, own = self.own(integration_id, acting_user_id)
        self._registry.blocklist.require_unblocked(own.record.owner_user_id)
        return by, own

    def intent(self, by: Caller, etag: str, *, blocked: bool = False) -> Intent:
        """The intent of a change, which checks again at the newest record that it is the caller's.

        `blocked`: a blocked developer may do it, too.
        """

        def require(record: IntegrationRecord) -> None:
            if by.role is Role.BOT and record.owner_user_id != by.user_id:
                raise NotOwner
            if not blocked:
                self._registry.blocklist.require_unblocked(record.owner_user_id)

        return Intent(by, etag=etag, require=require)

"""Who calls, and whether they may call this method: decided by the call's metadata, before its request is read.

Roles come from the contract's ``(access)``. Must not know what a method does.
"""

import itertools
import secrets
from collections.abc import Iterable

from hub.control.registry import Registry
from hub.errors import IntegrationDeleted, InvalidRequest, KeyMissing, RoleNotAllowed
from hub.logs import CALLER
from hub.model import Caller, Role, State

Metadata = Iterable[tuple[str, str | bytes]]

_request_ids = itertools.count(secrets.randbits(40) << 20)


def caller() -> Caller:
    """The caller of the call that is being served."""
    found = CALLER.get()
    if found is None:
        raise RuntimeError("no call is being served")
    return found


def required(integration_id: str) -> str:
    """The integration that an admin must name; other callers may leave it out.

    Raises:
        InvalidRequest: it is left out.
    """
    if not integration_id:
        raise InvalidRequest.field("integration_id", "is required: an admin's key has no integration of its own")
    return integration_id


class Access:
    """Identifies callers by their keys."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def identify(self, metadata: Metadata, method: str) -> Caller:
        """Who calls a method ("AdminService/SetScopes"); the peer is not known yet.

        Raises:
            KeyMissing, KeyUnknown, KeyExpired, KeyRevoked, IntegrationDeleted: the caller may call nothing.
        """
        owner = self._registry.keyring.authenticate(bearer(metadata))
        self._require_not_deleted(owner.integration_id)
        return Caller(owner.key.role, owner.key.key_id, owner.integration_id, method, f"{next(_request_ids):x}")

    def require_live(self, caller: Caller) -> None:
        """Check a key again once the request is there: it may have ended while the caller held the request back.

        Raises:
            KeyExpired, KeyRevoked, IntegrationDeleted: the caller may no longer call anything.
        """
        self._registry.keyring.require_live(caller.key_id)
        self._require_not_deleted(caller.integration_id)

    def _require_not_deleted(self, integration_id: str) -> None:
        if integration_id and self._registry.integration(integration_id).record.state is State.DELETED:
            raise IntegrationDeleted("the integration was deleted", metadata={"integration_id": integration_id})


def require_role(caller: Caller, allowed: frozenset[Role]) -> None:
    """Check that a caller's role may call the method.

    Raises:
        RoleNotAllowed: it may not.
    """
    if caller.role not in allowed:
        names = " or ".join(sorted(role.name for role in allowed)) or "nobody"
        raise RoleNotAllowed(
            f"this key's role is {caller.role.name}; {caller.method} is for {names}",
            metadata={"role": caller.role.name, "allowed": names.replace(" or ", ",")},
        )


def bearer(metadata: Metadata) -> str:
    """The key in a call's metadata.

    Raises:
        KeyMissing: there is none, or more than one.
    """
    values = [value for name, value in metadata if name == "authorization"]
    if len(values) > 1:
        raise KeyMissing("more than one 'authorization' was sent: send exactly one, 'Bearer <key>'")
    for value in values:
        scheme, _, key = value.partition(" ") if isinstance(value, str) else ("", "", "")
        if scheme.lower() == "bearer" and key:
            return key.strip()
    raise KeyMissing

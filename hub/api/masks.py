"""Updates by field masks (AIP-134)."""

from collections.abc import Sequence

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from hub.errors import InvalidRequest


def masked(new: Message, mask: FieldMask, allowed: Sequence[str]) -> list[str]:
    """The fields that an update changes: those of the mask; without a mask those that are set; "*" means all.

    Raises:
        InvalidRequest: the mask names a field that cannot be updated.
    """
    if list(mask.paths) == ["*"]:
        return list(allowed)
    if not mask.paths:
        return [name for name in allowed if getattr(new, name)]
    for path in mask.paths:
        if path not in allowed:
            raise InvalidRequest.field("update_mask", f"cannot change '{path}': name some of {', '.join(allowed)}")
    return list(mask.paths)

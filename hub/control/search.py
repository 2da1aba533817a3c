"""The texts that searches read: folded once, and kept until they change."""

from hub.model import IntegrationRecord
from hub.text import fold


class SearchTexts:
    """Names and descriptions as searches compare them."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[IntegrationRecord, str]] = {}

    def of(self, record: IntegrationRecord) -> str:
        """The text that searches look through: name and description, each folded, on two lines."""
        known = self._known.get(record.integration_id)
        if known is not None and known[0] is record:
            return known[1]
        folded = f"{fold(record.display_name)}\n{fold(record.description)}"
        self._known[record.integration_id] = (record, folded)
        return folded

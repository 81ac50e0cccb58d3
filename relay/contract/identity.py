"""Which event a document is: its id and type, or why no event can be made of it. Pure."""

import re
from typing import Any

from relay.events import DeadLetterReason

#: Characters of an event id at most; it is the key of a dead letter, which must fit into a record.
LONGEST_ID = 512
#: What types of Feishu's callbacks begin with: a card's button, a link's preview. It shows its user
#: what the answer holds, and an error for every answer that it cannot read.
_INTERACTIVE = ("card.", "url.")
_SURROGATE = re.compile("[\ud800-\udfff]")


def identify(body: Any) -> tuple[str | None, str | None, DeadLetterReason | None]:
    """Read event id and type of either schema, and the reason if no event can be made of it."""
    if not isinstance(body, dict):
        return None, None, DeadLetterReason.NOT_AN_OBJECT
    event = body.get("event")
    if "schema" in body or "uuid" not in body:
        header = body.get("header")
        source = header if isinstance(header, dict) else {}
        event_id, event_type = text(source.get("event_id")), text(source.get("event_type"))
    else:
        event_id = text(body["uuid"])
        event_type = text(event.get("type")) if isinstance(event, dict) else None
    if event_id is None or len(event_id) > LONGEST_ID:
        return None, event_type, DeadLetterReason.NO_EVENT_ID
    if not isinstance(event, dict):
        return event_id, event_type, DeadLetterReason.NOT_AN_OBJECT
    return event_id, event_type, None if event_type else DeadLetterReason.NO_EVENT_TYPE


def interactive(event_type: str) -> bool:
    """Whether a person waits for the answer to a callback of this type."""
    return event_type.startswith(_INTERACTIVE)


def text(value: Any) -> str | None:
    """Take a non-empty string that UTF-8 can carry."""
    if not isinstance(value, str) or not value:
        return None
    return value if value.isascii() or not _SURROGATE.search(value) else None

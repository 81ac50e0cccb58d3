"""What a callback holds that is for relay alone: its verification token, and an app's ticket. Pure.

A ticket goes to no topic, and to no disk either: of its event only the names in it are kept.
"""

import re
from collections.abc import Collection
from typing import Any

from relay.contract import exactjson
from relay.contract.identity import identify
from relay.events import APP_TICKET, withheld

#: What stands in the place of a credential.
HIDDEN = "(hidden)"
#: As it stands in a text that may be a part of JSON.
_CREDENTIAL = re.compile(rf'("(?:token|{APP_TICKET})"\s*:\s*")(?:[^"\\]|\\.)*', re.DOTALL)
#: What of an app ticket's event is no credential.
_NAMES = ("type", "app_id", "tenant_key")


def without_ticket(body: bytes) -> bytes:
    """Take the ticket out of an event that brings one. Raises ValueError for what is not JSON."""
    return exactjson.dumps(_without_ticket(exactjson.glance(body)))


def concealed(document: Any) -> Any:
    """Give a callback without its credentials, for people to look at."""
    if not isinstance(document, dict):
        return document
    if withheld(identify(document)[1]):
        document = _without_ticket(document)
    return _without_token(document) | {
        name: _without_token(below)
        for name, below in document.items()
        if name == "header" and isinstance(below, dict)
    }


def concealed_text(text: str) -> str:
    """Give a callback that is no JSON without its credentials, as far as they can be told."""
    return _CREDENTIAL.sub(rf"\1{HIDDEN}", text)


def _without_ticket(document: dict[str, Any]) -> dict[str, Any]:
    """Keep the plain values of the envelope, and of the event its names."""
    kept = {}
    for name, value in document.items():
        if name == "event":
            kept[name] = _some(value, _NAMES)
        elif isinstance(value, dict):
            kept[name] = _some(value, value.keys() - {APP_TICKET})
        else:
            kept[name] = HIDDEN if name == APP_TICKET or isinstance(value, list) else value
    return kept


def _some(place: Any, names: Collection[str]) -> Any:
    """Hide all but these values of an object, and those that are no plain ones."""
    if not isinstance(place, dict):
        return HIDDEN
    return {
        name: HIDDEN if name not in names or isinstance(value, dict | list) else value
        for name, value in place.items()
    }


def _without_token(place: dict[str, Any]) -> dict[str, Any]:
    return place | {"token": HIDDEN} if place.get("token") else place

"""Names of event types, of which the last part may be a wildcard: `im.*` is each type below `im`.

A whole name goes before a wildcard, and of two wildcards the longer one.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")

_WILDCARD = ".*"
_NAME = re.compile(r"[^.*\s]+(?:\.[^.*\s]+)*(?:\.\*)?")
_PATH = re.compile(r"[^.*\s\[\]]+(?:\.[^.*\s\[\]]+)*")
_FORM = "must be an event type, or a prefix with one wildcard behind its last dot: as im.*"


class Patterns(Generic[T]):
    """What was set for event types, one by one and by wildcard."""

    def __init__(self, table: Mapping[str, T]) -> None:
        self._whole = {name: value for name, value in table.items() if not is_wildcard(name)}
        wildcards = sorted(filter(is_wildcard, table), key=len, reverse=True)
        self._prefixes = [(name[:-1], table[name]) for name in wildcards]

    def get(self, event_type: str) -> T | None:
        """Give what holds for a type; None if nothing does."""
        found = self._whole.get(event_type)
        if found is None:
            for prefix, value in self._prefixes:
                if event_type.startswith(prefix):
                    return value
        return found


def is_wildcard(name: str) -> bool:
    """Whether a name stands for all types below a prefix."""
    return name.endswith(_WILDCARD)


def path(text: str) -> tuple[str, ...]:
    """Read where a value stands in Feishu's `event`: names with dots between."""
    return tuple(text.split("."))


def mistakes(names: Iterable[str]) -> Iterator[str]:
    """Say which names are no patterns, and which two are alike."""
    first: dict[str, str] = {}
    for name in names:
        if not _NAME.fullmatch(name):
            yield f"{name!r}: {_FORM}"
        other = first.setdefault(name.casefold(), name)
        if other != name:
            yield f"{other} and {name} are alike but for capitals: one of them means nothing"


def path_mistakes(paths: Mapping[str, str], reserved: Iterable[str]) -> Iterator[str]:
    """Say what is wrong with the paths of keys, by event type."""
    yield from mistakes(paths)
    for name, text in paths.items():
        if name in reserved:
            yield f"{name}: is no event type, so it has no path of its own: use a wildcard, as im.*"
        elif not _PATH.fullmatch(text):
            yield f"{name}: a path names fields below `event` with dots between: as message.chat_id"

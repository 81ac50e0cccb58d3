"""Names of topics: the defaults, and which names Kafka or relay itself would not take."""

import re
from collections.abc import Iterator, Mapping

from relay.settings import patterns

OTHER = "other"
DEAD_LETTER = "dead_letter"
#: Names in the tables that are no event types.
NO_TYPES = (OTHER, DEAD_LETTER)
#: Event type, `other` or `dead_letter` → topic, without the prefix.
DEFAULTS: Mapping[str, str] = {
    "helpdesk.ticket_message.created_v1": "helpdesk.ticket_message",
    "helpdesk.ticket.created_v1": "helpdesk.ticket",
    "helpdesk.ticket.updated_v1": "helpdesk.ticket",
    "helpdesk.notification.approve_v1": "helpdesk.notification",
    OTHER: "other",
    DEAD_LETTER: "dead_letter",
}
#: Under it Kafka keeps how far each journal is settled; it has no records.
JOURNAL = "relay_journal"
#: Of each topic that relay creates, if no setting says otherwise.
PARTITIONS = 12
#: Kafka makes files of them, with `-` and the partition behind.
_LONGEST = 249
_KAFKAS_OWN = {"__consumer_offsets", "__transaction_state", "__share_group_state"}


def names(prefix: str, changes: Mapping[str, str]) -> dict[str, str]:
    """Give each event type's topic, and those of `other` and `dead_letter`, whole.

    A wildcard is an operator's own word, so it goes before the defaults.
    """
    wildcards = patterns.Patterns({name: 1 for name in changes if patterns.is_wildcard(name)})
    kept = {name: topic for name, topic in DEFAULTS.items() if not wildcards.get(name)}
    return {event_type: prefix + topic for event_type, topic in ({**kept, **changes}).items()}


def config(table: object) -> object:
    """Read the settings of topics that are made: as Kafka names them, their values as text.

    In TOML a name with dots that stands in no quotes is a table in a table.
    """
    return dict(_settings(table)) if isinstance(table, dict) else table


def _settings(table: dict[str, object], before: str = "") -> Iterator[tuple[str, object]]:
    for name, value in table.items():
        path = f"{before}{name}"
        if isinstance(value, dict):
            yield from _settings(value, f"{path}.")
        elif not re.fullmatch(r"[a-z][a-z0-9]*([.-][a-z0-9]+)*", path):
            raise ValueError(f"{path[:_LONGEST]}: no setting of a topic has such a name")
        elif isinstance(value, bool):
            yield path, str(value).lower()
        else:
            yield path, str(value) if isinstance(value, int | float) else value


def mistakes(prefix: str, changes: Mapping[str, str]) -> Iterator[str]:
    """Say what is wrong with the names, by event type."""
    yield from patterns.mistakes(changes)
    topics = names(prefix, changes)
    for event_type, topic in (*topics.items(), ("the journal topic", prefix + JOURNAL)):
        if problem := _problem(topic if changes.get(event_type, topic) else ""):
            yield f"{event_type}: {problem}"
    for event_type, topic in topics.items():
        if topic == prefix + JOURNAL:
            yield f"{event_type}: its topic is the journal's own, {JOURNAL}"
        elif topic == topics[DEAD_LETTER] and event_type != DEAD_LETTER:
            yield f"{event_type} and {DEAD_LETTER} share a topic: its readers would get both"
    yield from _confusions(topics, prefix + JOURNAL)


def _problem(topic: str) -> str | None:
    if not re.fullmatch(r"[A-Za-z0-9._-]+", topic):
        return "a topic's name has letters, digits, `.`, `_` and `-` only, and at least one"
    if topic in {".", ".."}:
        return "Kafka takes no topic of the name `.` or `..`"
    if len(topic) > _LONGEST:
        return f"the topic's name, with the prefix, has more than {_LONGEST} characters"
    return "the topic is one of Kafka's own" if topic in _KAFKAS_OWN else None


def _confusions(topics: Mapping[str, str], journal: str) -> Iterator[str]:
    """Find names that differ in `.` and `_` only: Kafka's metrics mix them up, so it refuses."""
    first: dict[str, tuple[str, str]] = {journal.replace(".", "_"): ("the journal topic", journal)}
    for event_type, topic in topics.items():
        other, known = first.setdefault(topic.replace(".", "_"), (event_type, topic))
        if known != topic:
            yield (
                f"{other} and {event_type} have topics that differ in `.` and `_` only: "
                "Kafka refuses the second"
            )

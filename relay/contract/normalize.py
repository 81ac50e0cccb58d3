"""Turns a stored event into the record that consumers read: a table of rules, field by field.

Pure and total: no clock, no socket, and whatever the body holds, a record comes out of it. The
rules in words are docs/contract.md; Feishu's field names are of its helpdesk event pages.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from relay.contract import exactjson
from relay.contract.identity import identify, text
from relay.contract.printable import header, segment
from relay.contract.rules import helpdesk
from relay.contract.rules.privacy import Guard
from relay.contract.rules.table import Findings, apply_table
from relay.contract.rules.values import Unexpected, rfc3339, to_instant, to_milliseconds
from relay.events import DeadLetterReason, Outcome, Record, StoredEvent, Transport
from relay.settings import patterns, topics
from relay.settings.patterns import Patterns
from relay.settings.topics import DEAD_LETTER, OTHER

#: Names of fields, from Feishu's `event` down to a value.
Path: TypeAlias = tuple[str, ...]

#: What they are where nothing is kept from consumers.
EVENT_TYPES = helpdesk.event_types(Guard())
_TICKET_PATHS = tuple(known.ticket for known in EVENT_TYPES.values() if known.ticket)
#: Where an event that is a message has the message's own id. Events about a message have none here:
#: several of them share it.
_MESSAGE_IDS: dict[str, Path] = {
    "helpdesk.ticket_message.created_v1": ("message_id",),
    "im.message.receive_v1": ("message", "message_id"),
    "message": ("open_message_id",),
}
#: Event types to remember the routes of, and characters of each; a signer can make up names.
MOST_ROUTES, LONGEST_TYPE = 256, 256


class Route(NamedTuple):
    """What the events of one type have in common."""

    topic: str
    #: Its rules, if it has some.
    known: helpdesk.EventType | None
    #: Where a ticket id may stand: the type's own place first, then the other ones.
    tickets: tuple[Path, ...]
    #: Where another key stands: an operator's place first.
    keys: tuple[Path, ...]
    #: Where a message has its own id.
    message: tuple[Path, ...]
    headers: tuple[tuple[str, bytes], tuple[str, bytes]]


class Router:
    """Names topic and key of each record: the defaults, what an operator changed, the prefix."""

    def __init__(
        self,
        prefix: str,
        changes: Mapping[str, str],
        keys: Mapping[str, str] | None = None,
        guard: Guard | None = None,
        *,
        dead_letter_value: bool = True,
    ) -> None:
        names = topics.names(prefix, changes)
        #: The topic of dead letters; an event whose type has that name goes where others go.
        self.dead_letter = names.pop(DEAD_LETTER)
        #: Every topic that a record may go to.
        self.topics = sorted({*names.values(), self.dead_letter})
        self._other = names[OTHER]
        self._named = names
        self._topics = Patterns(names)
        #: Whether an operator has named a key for types without rules.
        self.keyed = bool((keys or {}).keys() - EVENT_TYPES.keys())
        self._keys = Patterns({name: patterns.path(text) for name, text in (keys or {}).items()})
        #: Whether a dead letter has the body that Feishu sent.
        self.dead_letter_value = dead_letter_value
        self.guard = guard or Guard()
        #: The types that have rules, and the rules.
        self.known = helpdesk.event_types(self.guard) if guard else EVENT_TYPES
        self._routes: dict[str, Route] = {}

    def route(self, event_type: str) -> Route:
        """Give what holds for all events of a type."""
        route = self._routes.get(event_type)
        if route is None:
            route = self._route(event_type)
            if len(self._routes) >= MOST_ROUTES:
                self._routes.clear()
            if len(event_type) <= LONGEST_TYPE:
                self._routes[event_type] = route
        return route

    def _route(self, event_type: str) -> Route:
        known = self.known.get(event_type)
        schema, tickets, keys = event_type, _TICKET_PATHS, [self.key_path(event_type)]
        if known is None:
            schema = OTHER
        else:
            # Its own place first; one without any is about no ticket.
            tickets = tuple(sorted(_TICKET_PATHS, key=lambda path: path != known.ticket))
            tickets = tickets if known.ticket else ()
            keys.append(known.key)
        message = _MESSAGE_IDS.get(event_type)
        return Route(
            topic=self.topic(event_type),
            known=known,
            tickets=tickets,
            keys=tuple(path for path in keys if path),
            message=(message,) if message else (),
            headers=(
                ("ce_type", header(f"com.feishu.{event_type}")),
                ("ce_dataschema", f"urn:feishu-relay:{schema}:1".encode()),
            ),
        )

    def topic(self, event_type: str) -> str:
        """Give the topic of an event type."""
        return self._topics.get(event_type) or self._other

    def carried(self, topic: str) -> list[str]:
        """Give the types with rules that go to a topic, and `other` if others do."""
        known = [name for name in EVENT_TYPES if self.topic(name) == topic]
        others = {place for name, place in self._named.items() if name not in EVENT_TYPES}
        return [*known, OTHER] if topic in others else known

    def key_path(self, event_type: str) -> Path:
        """Give where an operator wants the key to be read; empty: nowhere in particular."""
        return self._keys.get(event_type) or ()

    def ids(self, stored: StoredEvent) -> tuple[str | None, str | None]:
        """Tell ticket (or key) and message of an event without its record, where it has some.

        They are what stands in the body: for an operator, not for consumers.
        """
        try:
            body = exactjson.loads(stored.body) if stored.content is None else stored.content
            event, route = body["event"], self.route(stored.event_type)
            ticket = first_id(event, (*route.tickets, *route.keys))
            return ticket, first_id(event, route.message)
        except (ValueError, LookupError, TypeError, AttributeError):
            return None, None


def normalize(stored: StoredEvent, router: Router) -> Record:
    """Make the record of a stored event: an event, or a dead letter if none can be made."""
    body = stored.content
    if body is None or exactjson.has_long_integer(stored.body):
        try:
            body = exactjson.loads(stored.body)
        except ValueError:
            return dead_letter(stored, router, DeadLetterReason.NOT_JSON)
    _, event_type, reason = identify(body)
    if reason or not event_type:
        return dead_letter(stored, router, reason or DeadLetterReason.NO_EVENT_TYPE)
    try:
        return _event_record(stored, router, body, event_type)
    except exactjson.TooDeepError:
        return dead_letter(stored, router, DeadLetterReason.NOT_JSON)


def _event_record(
    stored: StoredEvent, router: Router, body: dict[str, Any], event_type: str
) -> Record:
    event, route = body["event"], router.route(event_type)
    origin, created_at = _origin(body)
    app_id, tenant_key = text(origin.get("app_id")), text(origin.get("tenant_key"))
    received_at = rfc3339(stored.received_at)
    ticket_id = first_id(event, route.tickets)
    found = first_id(event, route.keys) or ticket_id
    key = found or stored.event_id
    findings: Findings = {}
    data = apply_table(route.known.fields, event, findings) if route.known else event
    value = {
        "event": {
            "id": stored.event_id,
            "type": event_type,
            "created_at": created_at,
            "received_at": received_at,
            "app_id": app_id,
            "tenant_key": tenant_key,
            "transport": stored.transport,
        },
        "ticket_id": ticket_id,
        "data": data,
    }
    if findings:
        value["unexpected"] = router.guard.told(findings)
    type_header, schema_header = route.headers
    headers = [
        ("content-type", b"application/json"),
        ("ce_specversion", b"1.0"),
        ("ce_id", header(stored.event_id)),
        type_header,
        ("ce_source", _source(tenant_key, app_id)),
        ("ce_partitionkey", header(key)),
        ("ce_recordedtime", received_at.encode()),
        schema_header,
    ]
    if ticket_id:
        headers.append(("ce_subject", header(ticket_id)))
    if created_at:
        headers.append(("ce_time", created_at.encode()))
    if stored.replayed:
        headers.append(("relay_replayed", b"1"))
    if stored.transport is Transport.BACKFILL:
        headers.append(("relay_backfill", b"1"))
    # Of `data`: what is kept from consumers stands in no header either.
    message_id = first_id(data, route.message)
    if message_id:
        headers.append(("relay_message_id", header(message_id)))
    return Record(
        outcome=Outcome.PUBLISHED,
        topic=route.topic,
        key=key.encode(),
        value=exactjson.dumps(value),
        headers=headers,
        timestamp=stored.received_at,
        created_at=created_at if found else None,
        ticket=ticket_id or found,
        message_id=message_id,
    )


def dead_letter(
    stored: StoredEvent, router: Router, reason: DeadLetterReason, *, keep_value: bool = True
) -> Record:
    """Make the record that says why no event could be made, with the bytes as Feishu sent them.

    Without them, where an operator wants none on Kafka or Kafka takes none, it has their number.
    """
    keep_value = keep_value and router.dead_letter_value
    headers = [
        ("relay_reason", reason.encode()),
        ("relay_detail", _DETAILS[reason].encode()),
        ("relay_app", header(stored.app)),
        ("relay_transport", stored.transport.encode()),
        ("relay_received_at", rfc3339(stored.received_at).encode()),
    ]
    if not keep_value:
        headers.append(("relay_size", str(len(stored.body)).encode()))
    if stored.replayed:
        headers.append(("relay_replayed", b"1"))
    return Record(
        outcome=Outcome.DEAD_LETTER,
        topic=router.dead_letter,
        key=stored.event_id.encode(),
        value=stored.body if keep_value else None,
        headers=headers,
        timestamp=stored.received_at,
        reason=reason,
    )


_DETAILS = {
    DeadLetterReason.NOT_JSON: "the body is not JSON, or holds what no JSON reader takes",
    DeadLetterReason.NOT_AN_OBJECT: "the body, or its `event`, is not a JSON object",
    DeadLetterReason.NO_EVENT_ID: "the body has no event id, or one of over 512 characters",
    DeadLetterReason.NO_EVENT_TYPE: "the body has no event type",
    DeadLetterReason.TOO_LARGE: "the record is larger than the broker takes; the journal has it",
    DeadLetterReason.REFUSED: "the broker refuses the record, alone and again; the journal has it",
    DeadLetterReason.INTERNAL_ERROR: "relay failed to normalize the body; the journal has it",
}


def created_at(body: Any) -> str | None:
    """Tell when Feishu made an event, as RFC 3339; None where no event says so."""
    dead_letter = identify(body)[2]
    return None if dead_letter else _origin(body)[1]


def _origin(body: dict[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Give the object that names app and tenant, and when Feishu made the event.

    The schema is told as `identify` tells it, which has found an id in 2.0's `header`.
    """
    if "schema" not in body and "uuid" in body:
        return body["event"], _created_at(body.get("ts"))
    header = body["header"]
    try:
        return header, to_instant(header.get("create_time"))
    except Unexpected:
        return header, None


def _created_at(ts: Any) -> str | None:
    """Read the time of schema 1.0, seconds with a fraction; zero is none, as in `to_instant`.

    So many digits that they are milli- or microseconds need no fraction.
    """
    match = re.fullmatch(r"([0-9]{1,17})(?:\.([0-9]{1,15}))?", str(ts))
    if not match:
        return None
    milliseconds = to_milliseconds(int(match[1]))
    if milliseconds == int(match[1]) * 1000:
        milliseconds += int(((match[2] or "") + "000")[:3])
    return rfc3339(milliseconds) if milliseconds else None


def first_id(event: dict[str, Any], paths: tuple[tuple[str, ...], ...]) -> str | None:
    """Give the first id that stands at one of the paths, as text."""
    for path in paths:
        value: Any = event
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if found := text(str(value) if type(value) is int else value):
            return found
    return None


@lru_cache(maxsize=256)
def _source(tenant_key: str | None, app_id: str | None) -> bytes:
    """Give CloudEvents' source, a URI reference."""
    return f"/feishu/{segment(tenant_key or '')}/{segment(app_id or '')}".encode()

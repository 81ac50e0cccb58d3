"""Turns a stored event into the record that consumers read: a table of rules, field by field.

Pure and total: no clock, no socket, and whatever the body holds, a record comes out of it. The
rules in words are docs/contract.md; Feishu's field names are of its helpdesk event pages.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from relay.contract import exactjson
from relay.contract.identity import identify, text
from relay.contract.printable import header, segment
from relay.contract.rules import (
    Findings,
    Table,
    Unexpected,
    apply_table,
    array,
    duration,
    enum,
    fields,
    flag,
    identifier,
    instant,
    integer,
    record,
    rfc3339,
    string,
    string_or_strings,
    strings,
    to_instant,
)
from relay.events import DeadLetterReason, Outcome, Record, StoredEvent, Transport
from relay.settings import topics
from relay.settings.topics import DEAD_LETTER, OTHER

STATUS = {
    1: "created",
    2: "processing",
    3: "queueing",
    4: "pending",
    5: "waiting_for_user",
    50: "closed_by_bot",
    51: "closed_by_agent",
    52: "closed_by_user",
}
SERVED_BY = {1: "bot", 2: "human"}
SENDER = {1: "bot", 2: "guest", 3: "agent"}
SCORE = {0: "none", 1: "unsatisfied", 2: "average", 3: "satisfied"}
SOLVE = {0: "none", 1: "not_solved", 2: "solved"}
CHANNEL = {2: "qr_code", 9: "open_api", 13: "search", 14: "share"}

USER_ID = fields("union_id user_id open_id", identifier)
#: Feishu names a person by one id in a message's ticket, by all three in the events of tickets.
PERSON = fields("id", identifier) | fields("avatar_url name email department city country", string)
PERSON_BY_IDS = {**PERSON, **fields("id", record(USER_ID, "UserId"))}
COMMENT = {
    **fields("id user_id", identifier),
    **fields("created_at", instant),
    **fields("content user_name user_avatar_url", string),
}
CUSTOMIZED_FIELD = {
    **fields("id", identifier),
    **fields("value", string_or_strings),
    **fields("key_name display_name", string),
    **fields("position", integer),
    **fields("required editable", flag),
}
I18N_TEXT = fields("zh_cn en_us ja_jp", string)


def _ticket(person: Table) -> Table:
    """Give the rules of a ticket, in which people are named in that way."""
    return {
        **fields("ticket_id helpdesk_id chat_id", identifier),
        **fields("status", enum(STATUS)),
        **fields("ticket_type stage", enum(SERVED_BY)),
        **fields("score", enum(SCORE)),
        **fields("solve", enum(SOLVE)),
        **fields("channel", enum(CHANNEL, "other")),
        **fields("created_at updated_at closed_at", instant),
        **fields("agent_entry_time agent_first_response_time agent_last_response_time", instant),
        **fields("agent_service_duration", duration(60)),
        **fields("agent_first_response_duration bot_service_duration", duration(1)),
        **fields("agent_resolution_time actual_processing_time", duration(1)),
        **fields("guest closed_by", record(person, "Person")),
        # Feishu has it in messages' tickets and in its API alone, and there by one id.
        **fields("agent_owner", record(PERSON, "Agent")),
        **fields("agents collaborators", array(person, "Person")),
        **fields("comments", array(COMMENT, "Comment")),
        **fields("customized_fields", array(CUSTOMIZED_FIELD, "CustomizedField")),
        **fields("dissatisfaction_reason", array(I18N_TEXT, "I18nText")),
    }


TICKET = _ticket(PERSON_BY_IDS)
CONTENT = {
    **fields("content msg_type image_key", string),
    **fields("image_keys", strings),
}
MESSAGE = {
    **fields("ticket_message_id message_id chat_id event_id", identifier),
    **fields("msg_type text", string),
    **fields("sender_type", enum(SENDER)),
    **fields("sender_id", record(USER_ID, "UserId")),
    **fields("position", integer),
    **fields("ticket", record(_ticket(PERSON), "Ticket")),
    **fields("content", record(CONTENT, "Content")),
}
TICKET_UPDATE = fields("object old_object", record(TICKET, "Ticket"))
NOTIFICATION = fields("notification_id helpdesk_id", identifier) | fields("approve_status", string)


class EventType(NamedTuple):
    """What relay knows about one event type."""

    #: Its content's name in the schemas.
    title: str
    fields: Table
    #: Where the ticket id stands, from `event`.
    ticket: tuple[str, ...] = ()
    #: Where the record's key stands when it is not the ticket id.
    key: tuple[str, ...] = ()


EVENT_TYPES = {
    "helpdesk.ticket_message.created_v1": EventType(
        "Message", MESSAGE, ticket=("ticket", "ticket_id")
    ),
    "helpdesk.ticket.created_v1": EventType("Ticket", TICKET, ticket=("ticket_id",)),
    "helpdesk.ticket.updated_v1": EventType(
        "TicketUpdate", TICKET_UPDATE, ticket=("object", "ticket_id")
    ),
    "helpdesk.notification.approve_v1": EventType(
        "Notification", NOTIFICATION, key=("notification_id",)
    ),
}
_TICKET_PATHS = tuple(known.ticket for known in EVENT_TYPES.values() if known.ticket)


class Router:
    """Names the topic of each record: the defaults, what an operator changed, and the prefix."""

    def __init__(self, prefix: str, changes: Mapping[str, str]) -> None:
        self._topics = topics.names(prefix, changes)
        #: The topic of dead letters; an event whose type has that name goes where others go.
        self.dead_letter = self._topics.pop(DEAD_LETTER)

    @property
    def topics(self) -> list[str]:
        """Every topic that a record may go to."""
        return sorted({*self._topics.values(), self.dead_letter})

    def topic(self, event_type: str) -> str:
        """Give the topic of an event type."""
        return self._topics.get(event_type) or self._topics[OTHER]


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
    return _event_record(stored, router, body, event_type)


def _event_record(
    stored: StoredEvent, router: Router, body: dict[str, Any], event_type: str
) -> Record:
    event, known = body["event"], EVENT_TYPES.get(event_type)
    origin, created_at = _origin(body)
    app_id, tenant_key = text(origin.get("app_id")), text(origin.get("tenant_key"))
    received_at = rfc3339(stored.received_at)
    ticket_id = _first_id(event, (known.ticket,) if known else _TICKET_PATHS)
    key = (_first_id(event, (known.key,)) if known and known.key else ticket_id) or stored.event_id
    findings: Findings = {}
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
        "data": apply_table(known.fields, event, findings) if known else event,
    }
    if findings:
        value["unexpected"] = findings
    type_header, schema_header = _type_headers(event_type)
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
    return Record(
        outcome=Outcome.PUBLISHED,
        topic=router.topic(event_type),
        key=key.encode(),
        value=exactjson.dumps(value),
        headers=headers,
        timestamp=stored.received_at,
        created_at=created_at if ticket_id else None,
    )


def dead_letter(
    stored: StoredEvent, router: Router, reason: DeadLetterReason, *, keep_value: bool = True
) -> Record:
    """Make the record that says why no event could be made, with the bytes as Feishu sent them."""
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
    """Read the time of schema 1.0, seconds with a fraction; zero is none, as in `to_instant`."""
    match = re.fullmatch(r"([0-9]{1,11})(?:\.([0-9]{1,15}))?", str(ts))
    if not match:
        return None
    milliseconds = int(match[1]) * 1000 + int(((match[2] or "") + "000")[:3])
    return rfc3339(milliseconds) if milliseconds else None


def _first_id(event: dict[str, Any], paths: tuple[tuple[str, ...], ...]) -> str | None:
    """Give the first id that stands at one of the paths, as text."""
    for path in paths:
        value: Any = event
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        if found := text(str(value) if type(value) is int else value):
            return found
    return None


@lru_cache(maxsize=256)
def _type_headers(event_type: str) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    """Give the headers that depend on the event type alone."""
    schema = event_type if event_type in EVENT_TYPES else OTHER
    return (
        ("ce_type", header(f"com.feishu.{event_type}")),
        ("ce_dataschema", f"urn:feishu-relay:{schema}:1".encode()),
    )


@lru_cache(maxsize=256)
def _source(tenant_key: str | None, app_id: str | None) -> bytes:
    """Give CloudEvents' source, a URI reference."""
    return f"/feishu/{segment(tenant_key or '')}/{segment(app_id or '')}".encode()

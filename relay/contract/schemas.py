"""The contract for machines: JSON Schemas of the values, and the topics as an AsyncAPI document.

Made of the same tables as the records, so it cannot say anything else. Pure.
"""

from typing import Any

from relay import __version__
from relay.contract.normalize import EVENT_TYPES, Router
from relay.contract.rules import properties, shapes
from relay.events import DeadLetterReason, Transport
from relay.settings.topics import DEAD_LETTER, OTHER

Json = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
ASYNCAPI = "3.0.0"
_TEXT: Json = {"type": "string"}
_TEXT_OR_NULL: Json = {"type": ["string", "null"]}
_INSTANT: Json = _TEXT | {"format": "date-time"}
_INSTANT_OR_NULL: Json = _TEXT_OR_NULL | {"format": "date-time"}
_TRANSPORT: Json = _TEXT | {"examples": [transport.value for transport in Transport]}

_EVENT: Json = {
    "id": _TEXT,
    "type": _TEXT,
    "created_at": _INSTANT_OR_NULL,
    "received_at": _INSTANT,
    "app_id": _TEXT_OR_NULL,
    "tenant_key": _TEXT_OR_NULL,
    "transport": _TRANSPORT,
}
_HEADERS: Json = {
    "content-type": _TEXT | {"const": "application/json"},
    "ce_specversion": _TEXT | {"const": "1.0"},
    "ce_id": _TEXT | {"description": "the event id, unique within an app"},
    "ce_type": _TEXT,
    "ce_source": _TEXT | {"format": "uri-reference"},
    "ce_subject": _TEXT | {"description": "the ticket id"},
    "ce_time": _INSTANT,
    "ce_dataschema": _TEXT | {"format": "uri"},
    "ce_partitionkey": _TEXT | {"description": "the record's key"},
    "ce_recordedtime": _INSTANT,
    "ce_traceparent": _TEXT | {"description": "W3C trace context"},
    "relay_backfill": _TEXT | {"const": "1"},
    "relay_dedupe": _TEXT | {"const": "skipped"},
    "relay_late": _TEXT | {"const": "1"},
    "relay_replayed": _TEXT | {"const": "1"},
}
#: Of the headers above, those that a record may lack.
_OPTIONAL = {"ce_subject", "ce_time", *(name for name in _HEADERS if name.startswith("relay_"))}
_LETTER_HEADERS: Json = {
    "relay_reason": _TEXT | {"examples": [reason.value for reason in DeadLetterReason]},
    "relay_detail": _TEXT,
    "relay_app": _TEXT,
    "relay_transport": _TRANSPORT,
    "relay_received_at": _INSTANT,
    "relay_size": _TEXT | {"description": "bytes of a body that is not here: it was too large"},
    "relay_dedupe": _HEADERS["relay_dedupe"],
    "relay_replayed": _HEADERS["relay_replayed"],
}
#: Of these, those that a dead letter may lack.
_LETTER_OPTIONAL = {"relay_size", "relay_dedupe", "relay_replayed"}


def schemas() -> dict[str, Json]:
    """Give the JSON Schema of each event type's value, and of `other`, by type."""
    return {event_type: schema(event_type) for event_type in (*EVENT_TYPES, OTHER)}


def schema(event_type: str) -> Json:
    """Give the JSON Schema of a value; its `$id` is what `ce_dataschema` says."""
    known = EVENT_TYPES.get(event_type)
    return {
        "$schema": DIALECT,
        "$id": f"urn:feishu-relay:{event_type}:1",
        "title": event_type,
        "type": "object",
        "required": ["event", "ticket_id", "data"],
        "properties": {
            "event": {"$ref": "#/$defs/Event"},
            "ticket_id": _TEXT_OR_NULL,
            "data": {"$ref": f"#/$defs/{known.title}"} if known else {"type": "object"},
            "unexpected": {
                "type": "object",
                "description": "values that did not fit, by their JSON pointer in Feishu's event",
                "propertyNames": {"pattern": "^/"},
                "minProperties": 1,
            },
        },
        "$defs": _shapes(event_type),
    }


def _shapes(event_type: str) -> dict[str, Json]:
    """Give the schemas of the objects inside a value, by their names."""
    made = {"Event": _event(event_type)}
    if known := EVENT_TYPES.get(event_type):
        tables = shapes(known.fields, known.title)
        made |= {
            title: {"title": title, "type": "object"} | properties(table)
            for title, table in tables.items()
        }
    return made


def _event(event_type: str) -> Json:
    named = {"type": _TEXT | {"const": event_type}} if event_type in EVENT_TYPES else {}
    return {
        "title": "Event",
        "type": "object",
        "required": list(_EVENT),
        "properties": _EVENT | named,
    }


def asyncapi(router: Router) -> Json:
    """Give the AsyncAPI document of the topics: channels, messages, headers, keys."""
    topics = {router.topic(event_type) for event_type in (*EVENT_TYPES, OTHER)}
    channels = {
        topic: {
            "address": topic,
            "messages": {
                name: {"$ref": f"#/components/messages/{name}"}
                for name in (*EVENT_TYPES, OTHER)
                if router.topic(name) == topic
            },
        }
        for topic in sorted(topics)
    }
    channels[router.dead_letter] = {
        "address": router.dead_letter,
        "messages": {DEAD_LETTER: {"$ref": f"#/components/messages/{DEAD_LETTER}"}},
    }
    return {
        "asyncapi": ASYNCAPI,
        "info": {
            "title": "relay",
            "version": __version__,
            "description": "Feishu helpdesk events, once and in order. Read committed.",
        },
        "channels": channels,
        "operations": {
            f"publish {topic}": {
                "action": "send",
                "channel": {"$ref": f"#/channels/{_escaped(topic)}"},
            }
            for topic in channels
        },
        "components": {
            "messages": {name: _message(name) for name in (*EVENT_TYPES, OTHER)}
            | {DEAD_LETTER: _dead_letter()},
            "schemas": {
                f"{name}.{title}": _referred(name, one)
                for name in (*EVENT_TYPES, OTHER)
                for title, one in _shapes(name).items()
            },
        },
    }


def _payload(event_type: str) -> Json:
    """Give a value's schema for a document that holds several, where `$id` would start another."""
    own = {"$schema", "$id", "$defs"}
    payload = {name: part for name, part in schema(event_type).items() if name not in own}
    referred: Json = _referred(event_type, payload)
    return referred


def _referred(event_type: str, part: Any) -> Any:
    """Let a part of a value's schema refer to the AsyncAPI document's schemas."""
    if isinstance(part, list):
        return [_referred(event_type, one) for one in part]
    if not isinstance(part, dict):
        return part
    made = {name: _referred(event_type, one) for name, one in part.items()}
    if "$ref" in part:
        title = part["$ref"].removeprefix("#/$defs/")
        made["$ref"] = f"#/components/schemas/{event_type}.{title}"
    return made


def _message(event_type: str) -> Json:
    required = [name for name in _HEADERS if name not in _OPTIONAL]
    known = EVENT_TYPES.get(event_type)
    key = "notification id" if known and known.key else "ticket id, or the event id"
    return {
        "name": event_type,
        "contentType": "application/json",
        "headers": {"type": "object", "required": required, "properties": _HEADERS},
        "payload": _payload(event_type),
        "bindings": {"kafka": {"key": _TEXT | {"description": key}}},
    }


def _dead_letter() -> Json:
    required = [name for name in _LETTER_HEADERS if name not in _LETTER_OPTIONAL]
    return {
        "name": DEAD_LETTER,
        "summary": "An authentic delivery of which no event can be made, byte for byte.",
        "contentType": "application/octet-stream",
        "headers": {"type": "object", "required": required, "properties": _LETTER_HEADERS},
        "payload": {"description": "the decrypted body; absent if it was too large"},
        "bindings": {"kafka": {"key": _TEXT | {"description": "event id, or SHA-256 of the body"}}},
    }


def _escaped(name: str) -> str:
    """Write a name as a part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")

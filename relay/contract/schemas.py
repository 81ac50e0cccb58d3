"""The contract for machines: JSON Schemas of the values, and the topics as an AsyncAPI document.

Made of the same tables as the records, so it cannot say anything else. Pure.
"""

import json
import re
from typing import Any

from relay import __version__
from relay.contract import examples, glossary
from relay.contract.normalize import EVENT_TYPES, Router
from relay.contract.rules.table import MARK, State, Table, properties, shapes
from relay.events import DeadLetterReason, Transport
from relay.settings.topics import DEAD_LETTER, OTHER, PARTITIONS

Json = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
ASYNCAPI = "3.1.0"
KAFKA_BINDING = "0.5.0"
_TEXT: Json = {"type": "string"}
_TEXT_OR_NULL: Json = {"type": ["string", "null"]}
_INSTANT: Json = _TEXT | {"format": "date-time"}
_INSTANT_OR_NULL: Json = _TEXT_OR_NULL | {"format": "date-time"}
#: An object with fields of its own names.
_ANY_OBJECT: Json = {"type": "object", "additionalProperties": True}
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
    "relay_message_id": _TEXT | {"description": "the message's own id, of an event that is one"},
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
    "relay_size": _TEXT | {"description": "bytes of a body that is not here"},
    "relay_dedupe": _HEADERS["relay_dedupe"],
    "relay_replayed": _HEADERS["relay_replayed"],
}
#: Of these, those that a dead letter may lack.
_LETTER_OPTIONAL = {"relay_size", "relay_dedupe", "relay_replayed"}


_READ = (
    "Read with isolation.level=read_committed: each event then comes once. Other readers also see "
    "records of transactions that were aborted. Leave out a ce_id that you have handled before."
)
#: Where nobody has changed anything.
_DEFAULT = Router("feishu.", {})
#: What Kafka keeps a topic's records for, if its broker was not told otherwise.
_KAFKAS_RETENTION = 7 * 24 * 3600 * 1000
_SERVER = {
    "host": "{host}:{port}",
    "protocol": "kafka",
    "title": "The brokers",
    "description": "kafka.bootstrap_servers; relay speaks PLAINTEXT, TLS, PLAIN and SCRAM.",
    "variables": {
        "host": {"default": "localhost", "description": "one of the brokers"},
        "port": {"default": "9092"},
    },
}
_STATES: dict[str, str] = {
    State.HASHED: "Here it is an HMAC-SHA-256 in hex, of each text in it.",
    State.DROPPED: "Here it is left out.",
}
_KEYS = {
    DEAD_LETTER: "event id, or SHA-256 of the body",
    OTHER: "ticket id if the event has one, else the event id",
}


def schemas(router: Router = _DEFAULT) -> dict[str, Json]:
    """Give the JSON Schema of each event type's value, and of `other`, by type."""
    return {event_type: schema(event_type, router) for event_type in (*EVENT_TYPES, OTHER)}


def schema(event_type: str, router: Router = _DEFAULT) -> Json:
    """Give the JSON Schema of a value; its `$id` is what `ce_dataschema` says."""
    known = router.known.get(event_type)
    data = {"$ref": f"#/$defs/{known.title}"} if known else _ANY_OBJECT
    return {
        "$schema": DIALECT,
        "$id": f"urn:feishu-relay:{event_type}:1",
        "title": event_type,
        "description": _summary(event_type),
        "type": "object",
        "required": ["event", "ticket_id", "data"],
        "properties": {
            "event": {"$ref": "#/$defs/Event"},
            "ticket_id": _TEXT_OR_NULL | {"description": "The ticket's id; null if there is none."},
            "data": data,
            "unexpected": {
                "type": "object",
                "description": "values that did not fit, by their JSON pointer in Feishu's event",
                "propertyNames": {"pattern": "^/"},
                "additionalProperties": True,
                "minProperties": 1,
            },
        },
        "examples": [_example(event_type, router)["payload"]],
        "$defs": _shapes(event_type, router),
    }


def _summary(event_type: str) -> str:
    known = EVENT_TYPES.get(event_type)
    return glossary.SHAPES[known.title] if known else "An event without rules; `data` is Feishu's."


def _example(event_type: str, router: Router) -> Json:
    """Give headers and value of one record, as a consumer reads them."""
    record = examples.record(event_type, router)
    return {
        "headers": {name: value.decode() for name, value in record.headers},
        "payload": json.loads(record.value or b""),
    }


def _shapes(event_type: str, router: Router) -> dict[str, Json]:
    """Give the schemas of the objects inside a value, by their names."""
    known = router.known.get(event_type)
    named = {"type": _TEXT | {"const": event_type}} if known else {}
    event = _shape("Event", _EVENT | named) | {"required": list(_EVENT)}
    tables: dict[str, Table] = shapes(known.fields, known.title) if known else {}
    return {"Event": event} | {
        title: _shape(title, properties(table)["properties"]) for title, table in tables.items()
    }


def _shape(title: str, members: dict[str, Json]) -> Json:
    """Describe an object; it may hold fields of tomorrow beside those that are named."""
    return {
        "title": title,
        "description": glossary.SHAPES[title],
        "type": "object",
        "properties": {
            name: _personal(title, name)
            | member
            | {"description": _description(title, name, member)}
            for name, member in members.items()
        },
    }


def _personal(title: str, name: str) -> Json:
    """Mark what tells of a person; what an operator keeps from consumers is marked as that."""
    return {MARK: State.CLEAR.value} if glossary.personal(title, name) else {}


def _description(title: str, name: str, member: Json) -> str:
    """Say what a field means, and in what unit or by which codes, if its rule knows that."""
    said = [
        glossary.meaning(title, name),
        member.get("description"),
        _STATES.get(member.get(MARK, "")),
    ]
    return " ".join(one for one in said if one)


def asyncapi(router: Router) -> Json:
    """Give the AsyncAPI document of the topics: channels, messages, headers, keys."""
    names = (*EVENT_TYPES, OTHER)
    topics = [topic for topic in router.topics if topic != router.dead_letter]
    channels = {topic: _channel(topic, router.carried(topic)) for topic in topics}
    channels[router.dead_letter] = _channel(router.dead_letter, [DEAD_LETTER])
    return {
        "asyncapi": ASYNCAPI,
        "info": {
            "title": "relay",
            "version": __version__,
            "description": f"Feishu helpdesk events, once and in order. {_READ}",
        },
        "defaultContentType": "application/json",
        "servers": {"kafka": _SERVER},
        "channels": channels,
        "operations": _operations(channels),
        "components": {
            "messages": {name: _message(name, router) for name in names}
            | {DEAD_LETTER: _dead_letter()},
            "schemas": {
                f"{name}.{title}": _referred(name, one)
                for name in names
                for title, one in _shapes(name, router).items()
            },
        },
    }


def _channel(topic: str, names: list[str]) -> Json:
    return {
        "address": topic,
        "description": "Retention is the broker's: relay sets none. Compaction would lose events.",
        "servers": [{"$ref": "#/servers/kafka"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {
            "kafka": {
                "topic": topic,
                "partitions": PARTITIONS,
                "topicConfiguration": {
                    "cleanup.policy": ["delete"],
                    "retention.ms": _KAFKAS_RETENTION,
                },
                "bindingVersion": KAFKA_BINDING,
            }
        },
    }


def _operations(channels: dict[str, Json]) -> dict[str, Json]:
    """Name each operation so that generators can make an identifier of it."""
    made: dict[str, Json] = {}
    for topic, channel in channels.items():
        name = "publish_" + re.sub("[^A-Za-z0-9]", "_", topic)
        while name in made:
            name += "_"
        pointer = f"#/channels/{_escaped(topic)}"
        made[name] = {
            "action": "send",
            "channel": {"$ref": pointer},
            "summary": f"relay publishes to {topic}, in transactions.",
            "description": _READ,
            "messages": [
                {"$ref": f"{pointer}/messages/{_escaped(message)}"}
                for message in channel["messages"]
            ],
        }
    return made


def _payload(event_type: str, router: Router) -> Json:
    """Give a value's schema for a document that holds several, where `$id` would start another."""
    own = {"$schema", "$id", "$defs", "examples"}
    payload = {name: part for name, part in schema(event_type, router).items() if name not in own}
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


def _message(event_type: str, router: Router) -> Json:
    required = [name for name in _HEADERS if name not in _OPTIONAL]
    known = EVENT_TYPES.get(event_type)
    key = _KEYS.get(event_type, "ticket id, or the event id")
    if known and known.key:
        key = "notification id, or the event id"
    if path := router.key_path(event_type):
        key = f"{'.'.join(path)} of Feishu's event, else {key}"
    elif event_type == OTHER and router.keyed:
        key = f"what kafka.keys names for the type, else {key}"
    return {
        "name": event_type,
        "title": known.title if known else "Any other event",
        "summary": _summary(event_type),
        "contentType": "application/json",
        "headers": {"type": "object", "required": required, "properties": _HEADERS},
        "payload": _payload(event_type, router),
        "bindings": _key(key),
        "examples": [{"name": "example"} | _example(event_type, router)],
    }


def _dead_letter() -> Json:
    required = [name for name in _LETTER_HEADERS if name not in _LETTER_OPTIONAL]
    return {
        "name": DEAD_LETTER,
        "title": "Dead letter",
        "summary": "An authentic delivery of which no event can be made, byte for byte.",
        "contentType": "application/octet-stream",
        "headers": {"type": "object", "required": required, "properties": _LETTER_HEADERS},
        "payload": {"description": "the decrypted body; absent if Kafka is not to have it"},
        "bindings": _key(_KEYS[DEAD_LETTER]),
    }


def _key(meaning: str) -> Json:
    key = _TEXT | {"description": meaning}
    return {"kafka": {"key": key, "bindingVersion": KAFKA_BINDING}}


def _escaped(name: str) -> str:
    """Write a name as a part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")

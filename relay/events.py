"""The types an event passes through, each trusted more than the one before.

RawCallback (bytes from the network) → Callback (authentic, identified) → StoredEvent (on disk,
numbered) → Record (what Kafka gets). Nothing downstream takes an earlier type.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """Make a dataclass that nobody may change, which the type checker alone watches over.

    Several are made for each event, and one that is frozen takes three times as long to make.
    """
    return dataclass(slots=True, kw_only=True)(cls)


class Transport(StrEnum):
    """How Feishu delivered an event."""

    WEBHOOK = "webhook"
    LONG_CONNECTION = "long_connection"
    #: `relay backfill` has read it from Feishu's API.
    BACKFILL = "backfill"


class Outcome(StrEnum):
    """What `pipeline.accept` decided, or how the dispatcher settled a stored event."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    CHALLENGE = "challenge"
    PUBLISHED = "published"
    DEAD_LETTER = "dead_letter"
    #: A credential: it is for no topic.
    WITHHELD = "withheld"


class DeadLetterReason(StrEnum):
    """Why no event could be made of an authentic callback (`relay_reason` on Kafka)."""

    NOT_JSON = "not_json"
    NOT_AN_OBJECT = "not_an_object"
    NO_EVENT_ID = "no_event_id"
    NO_EVENT_TYPE = "no_event_type"
    TOO_LARGE = "too_large"
    #: The broker refuses its record, alone and again.
    REFUSED = "refused"
    INTERNAL_ERROR = "internal_error"


#: Feishu pushes one to each app of its store, every hour. With the app's secret it is the app.
APP_TICKET = "app_ticket"


def withheld(event_type: str | None) -> bool:
    """Whether events of this type are never published: they bring a credential."""
    return event_type == APP_TICKET


#: Why a record is on no topic: the broker does not take it.
REFUSALS = (DeadLetterReason.TOO_LARGE, DeadLetterReason.REFUSED)


def refusal(reason: str | None) -> DeadLetterReason | None:
    """Say whether a row's reason is that the broker has refused its record."""
    return next((one for one in REFUSALS if one == reason), None)


class Fate(StrEnum):
    """What Kafka has made of a record that was sent."""

    ACCEPTED = "accepted"
    TOO_LARGE = "too_large"
    #: Too old for its topic, or ahead of the broker's clock.
    TIME_REFUSED = "time_refused"
    #: The broker will never take it as it is.
    REFUSED = "refused"
    #: Nobody knows, or nothing is wrong with the record: the brokers are away, a right is missing.
    UNKNOWN = "unknown"


class LostReason(StrEnum):
    """Why a long connection has to be opened again."""

    #: Feishu, or something between, has closed it.
    DROPPED = "dropped"
    #: Nothing was heard for too long.
    DEAF = "deaf"
    #: Feishu could not be reached, or is busy.
    UNREACHABLE = "unreachable"
    #: Feishu refuses the app's credentials or rights.
    REFUSED = "refused"
    #: A fault of relay's.
    INTERNAL_ERROR = "internal_error"


class IgnoredReason(StrEnum):
    """Why something that came over a long connection was not taken for an event."""

    TEXT = "text"
    NOT_A_FRAME = "not_a_frame"
    UNKNOWN_KIND = "unknown_kind"
    IMPOSSIBLE_PARTS = "impossible_parts"
    #: Some did not come in time, or others needed the room; Feishu sends the message again.
    MISSING_PARTS = "missing_parts"
    ENCODED = "encoded"


#: Why a stored event is a duplicate: another journal had claimed it.
OTHER_REPLICA = "other_replica"
#: The same, in the journal of a replica that has handed its pending events over to another.
EXPORTED = "exported"


@value
class RawCallback:
    """One delivery as it came from the network: nothing in it has been checked."""

    app: str
    transport: Transport
    body: bytes
    #: Unix time in milliseconds at which relay had read the body.
    received_at: int
    timestamp: str = ""
    nonce: str = ""
    signature: str = ""
    traceparent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """Feishu's URL verification; the value must be echoed, nothing is stored."""

    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Interaction:
    """Taken, and a person waits for what Feishu makes of the answer, which is to be `{}`."""

    outcome: Outcome


@value
class Callback:
    """An authentic delivery with the identity under which it is deduplicated."""

    app: str
    transport: Transport
    received_at: int
    #: The event id, or the body's SHA-256 in hex where there is none.
    event_id: str
    #: Empty when the body names no type.
    event_type: str
    #: The decrypted bytes, unchanged.
    body: bytes
    #: Set when no event can be made of the body.
    dead_letter: DeadLetterReason | None = None
    #: The trace that the request belongs to, if it named one.
    traceparent: str | None = None
    #: The body as `exactjson.glance` has read it.
    content: Any = field(default=None, compare=False, repr=False)


@value
class StoredEvent:
    """A callback after its commit: `seq` is its place in the journal's order."""

    seq: int
    app: str
    transport: Transport
    received_at: int
    event_id: str
    event_type: str
    body: bytes
    #: True when an operator asked for another publication of a settled event.
    replayed: bool = False
    #: Set when the broker has refused the event's record: TOO_LARGE or REFUSED.
    refused: DeadLetterReason | None = None
    #: The ids of the journals it was handed over from, with a space between: their claims are ours.
    origin: str | None = None
    #: The trace that the request belongs to, if it named one.
    traceparent: str | None = None
    #: Unix time in milliseconds at which it was known to be on disk; None if that is forgotten.
    stored_at: int | None = None
    #: The body as `exactjson.glance` has read it, or None: it is kept for few events.
    content: Any = field(default=None, compare=False, repr=False)


@value
class Record:
    """One Kafka record; the outcome says whether it is an event or a dead letter."""

    outcome: Outcome
    topic: str
    key: bytes
    value: bytes | None
    #: The dispatcher adds what it alone knows.
    headers: list[tuple[str, bytes]]
    #: Unix time in milliseconds: the event's `received_at`.
    timestamp: int
    reason: DeadLetterReason | None = None
    #: When Feishu made the event, RFC 3339 in UTC; None without a time, or a key but its own id.
    created_at: str | None = None
    #: The ticket that it is about, or else what its key says; None if that is the event's own id.
    ticket: str | None = None
    #: The message's own id, as consumers read it.
    message_id: str | None = None


@value
class Settlement:
    """How one stored event ended."""

    seq: int
    outcome: Outcome
    #: A DeadLetterReason, OTHER_REPLICA or EXPORTED.
    reason: str | None = None
    #: The event itself; None: what the journal notes of it is read from its row.
    event: StoredEvent | None = None
    #: Of its record, if it has one.
    topic: str | None = None
    ticket: str | None = None
    message_id: str | None = None


#: Where in its topic a record lies: partition and offset; None: Kafka has not said.
Landing: TypeAlias = tuple[int, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Which events of a batch are ours to publish."""

    #: Positions of events that another journal has claimed.
    lost: frozenset[int] = frozenset()
    #: True if nobody was asked: the claims store is away, and the settings say `publish`.
    skipped: bool = False

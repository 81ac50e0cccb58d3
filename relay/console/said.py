"""What a replica says of itself: the JSON below `/api/`, and what the pages are made of."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeAlias, TypeVar

from relay.journal.rows.lives import Life
from relay.observe.account import Account
from relay.observe.logs import Trouble

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """How a replica stands with a peer: Kafka, the claims store, Feishu."""

    #: The app of a long connection.
    name: str = ""
    up: bool
    #: The last one, also when it is over.
    trouble: Trouble | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """Bytes."""

    #: Of the journal's files, and of its write-ahead log alone.
    size: int
    log: int
    #: Of pages in use; at the maximum the journal is full.
    used: int
    maximum: int
    volume_free: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """When an event of a type last came, Unix time in milliseconds."""

    app: str
    event_type: str
    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """One replica at one moment. Unix times in milliseconds."""

    #: The journal's id: a replica is its journal. Empty while it cannot be opened.
    journal: str
    #: What its settings call it, else its host's name.
    name: str
    version: str
    now: int
    started_at: int
    draining: bool
    #: Whether a callback would be answered 200.
    ready: bool
    account: Account
    oldest_pending: int | None
    disk: Disk | None
    kafka: Link
    #: None where there is one replica only.
    claims: Link | None
    connections: tuple[Link, ...]
    arrivals: tuple[Arrival, ...] = ()
    #: Dead letters in the journal by reason.
    letters: dict[str, int] = field(default_factory=dict)

    @property
    def balanced(self) -> bool:
        """Whether everything that came is accounted for."""
        one = self.account
        ends = one.published + one.duplicate + one.dead_letter + one.withheld
        return one.received == ends + one.pending and one.pending >= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Generic[T]):
    """What a replica said, or why it said nothing."""

    #: The replica's name, or the address that was asked.
    name: str
    journal: str = ""
    said: T | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A page of a replica's events, the newest first."""

    journal: str
    name: str
    lives: tuple[Life, ...]
    #: Where the next page begins; None: there is none.
    before: int | None
    #: `received_at` of the last row that was looked at, where there is a next page.
    looked_to: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The record that an event becomes, by the replica's settings."""

    topic: str
    key: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """An event of a replica, whole."""

    journal: str
    name: str
    life: Life
    #: None for a credential, which is for no topic, and where there is no body.
    record: Published | None
    #: The record's value and the body, as text without credentials; None unless asked for.
    value: str | None = None
    body: str | None = None
    #: Characters that are left out of a long text.
    cut: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a replica has made of an operator's wish; events as `app/id`."""

    journal: str
    name: str
    done: tuple[str, ...]
    #: Why it was left as it is.
    left: dict[str, str]


class Deed(StrEnum):
    """What an operator can do with events."""

    REPLAY = "replay"
    DISCARD = "discard"


#: Events by the journal that has them: app and id of each.
Picks: TypeAlias = dict[str, list[tuple[str, str]]]

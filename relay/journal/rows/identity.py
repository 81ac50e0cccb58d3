"""What a journal's file knows of who it is to Kafka: its name, its own last signature, its reach.

What follows from it is decided in relay/egress/tenure.py; this is the row that it rests on.
"""

import sqlite3
from dataclasses import astuple, dataclass

#: In place of a signature: version 2 of the file wrote down none, Kafka's alone had it.
UNWRITTEN = "unwritten"

_READ = (
    "SELECT id, signature, trusted_seq, predecessor, predecessor_seq, former_ids, former_seq"
    " FROM journal"
)
_WRITE = (
    "UPDATE journal SET id = ?, signature = ?, trusted_seq = ?, predecessor = ?,"
    " predecessor_seq = ?, former_ids = ?, former_seq = ?"
)
_SEAL = "UPDATE journal SET trusted_seq = ? WHERE trusted_seq IS NULL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One row of the file; every change of it is one commit."""

    #: UUID: group, transactional id and claims are named after it.
    id: str
    #: The last signature that a process of this file has used on Kafka, or was about to use; empty
    #: if none has under this name.
    signature: str = ""
    #: The last seq of which an offset under `signature` can speak: what the file held when the next
    #: process started. None while the process that has stored the signature runs.
    reach: int | None = 0
    #: Whose offset Kafka had when `signature` was stored (empty: nobody's). None as soon as it is
    #: known that Kafka has `signature` itself.
    predecessor: str | None = ""
    #: As `reach`, for the predecessor's offset.
    predecessor_reach: int = 0
    #: Names that Kafka has forgotten, with a space between them: what was pending up to
    #: `former_seq` may be claimed under one of them, and is then ours.
    former_ids: str = ""
    former_seq: int = 0


def read(connection: sqlite3.Connection) -> Identity:
    """Give what the file says now."""
    row = connection.execute(_READ).fetchone()
    names = ("id", "signature", "reach", "predecessor", "predecessor_reach")
    return Identity(**dict(zip((*names, "former_ids", "former_seq"), row, strict=True)))


def write(connection: sqlite3.Connection, identity: Identity) -> None:
    """Put it into the file."""
    connection.execute(_WRITE, astuple(identity))


def seal(connection: sqlite3.Connection, last_seq: int) -> None:
    """A process begins: an offset of an earlier one can speak of no row that comes from now on."""
    connection.execute(_SEAL, (last_seq,))

"""What a journal's file knows of the claims store: what of its own is in it, and whom it waits for.

What follows from it is decided in relay/claims/seeding.py; this is the row that it rests on.
"""

import sqlite3
from dataclasses import astuple, dataclass

_READ = "SELECT claims_seeded, unclaimed_from, awaited, awaited_since FROM journal"
_WRITE = "UPDATE journal SET claims_seeded = ?, unclaimed_from = ?, awaited = ?, awaited_since = ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """One row of the file; as it begins, and after a time without claims."""

    #: Whether the store has what this journal has published, but for `unclaimed_from`.
    seeded: bool = False
    #: The first seq that was published while the store was away.
    unclaimed_from: int | None = None
    #: The replica whose past must be in the store before this journal's events are published.
    awaited: str = ""
    #: The journal's time (`Retention.open_for`) since which it is not there; None: it is.
    awaited_since: int | None = None

    @property
    def missing_from(self) -> int | None:
        """From which seq on the store lacks what was published; None if it lacks nothing."""
        return self.unclaimed_from if self.seeded else 0


def read(connection: sqlite3.Connection) -> Claimed:
    """Give what the file says now."""
    seeded, unclaimed_from, awaited, since = connection.execute(_READ).fetchone()
    return Claimed(
        seeded=bool(seeded), unclaimed_from=unclaimed_from, awaited=awaited, awaited_since=since
    )


def write(connection: sqlite3.Connection, claimed: Claimed) -> None:
    """Put it into the file."""
    connection.execute(_WRITE, astuple(claimed))

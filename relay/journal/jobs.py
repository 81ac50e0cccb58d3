"""What the writer is asked to do, and what it says of it."""

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from relay.errors import RejectReason
from relay.events import Callback, value


@value
class Add:
    """Store a callback; `token` is whatever the sender recognizes the answer by."""

    callback: Callback
    token: Any


@dataclass(frozen=True, slots=True)
class Call:
    """Other work in the same transaction; it must not commit and must not wait."""

    work: Callable[[sqlite3.Connection], Any]
    token: Any
    #: The first and the last event that it writes anew, body and all.
    seqs: tuple[int, int] | None = None


Job = Add | Call


@dataclass(slots=True)
class Commit:
    """What became of the jobs of one transaction; with a failure, none of them happened."""

    adds: list[Add]
    calls: list[Call]
    #: The place of each added event in the journal's order; None for a duplicate.
    seqs: Sequence[int | None] = ()
    #: Whether another process has added events since the last commit (`relay events replay`).
    foreign: bool = False
    failure: RejectReason | None = None
    #: Whether the journal is now at its size limit.
    full: bool = False
    #: Whether its volume has no room for more events.
    cramped: bool = False
    seconds: float = 0.0


def commit_of(jobs: Sequence[Job]) -> Commit:
    """Put jobs together that will be done in one transaction."""
    return Commit(
        adds=[job for job in jobs if isinstance(job, Add)],
        calls=[job for job in jobs if isinstance(job, Call)],
    )


def undone(jobs: Sequence[Job]) -> Commit:
    """Say of jobs that none of them has been done."""
    commit = commit_of(jobs)
    commit.failure = RejectReason.JOURNAL_UNAVAILABLE
    return commit

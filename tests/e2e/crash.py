"""Runs relay and kills it at one exact point: `python -m tests.e2e.crash POINT:N -- serve`.

Like a debugger it wraps relay's functions from outside; the product knows nothing of it. At the
N-th passage of the point the process gets SIGKILL, so nothing of it can clean up.
"""

import asyncio
import functools
import inspect
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaProducer

from relay.cli import main as cli
from relay.egress.dispatcher import Dispatcher
from relay.egress.kafka.producer import Producer
from relay.egress.publisher import ExactlyOncePublisher
from relay.journal import file
from relay.journal.journal import Journal
from relay.journal.rows.identity import Identity
from relay.journal.writer import Writer

#: Seconds after the request to commit left us; the broker is somewhere in the midst of it.
IN_THE_MIDST = 0.002

Install = Callable[[Callable[[], None]], None]


class Trigger:
    """Kills the process at the N-th pull."""

    def __init__(self, passages: int) -> None:
        self._left = passages

    def __call__(self) -> None:
        """Count one passage."""
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)


def _always(*_: Any) -> bool:
    return True


def _before(owner: type, name: str, when: Callable[..., bool] = _always) -> Install:
    """Pull when a method is called (with such arguments)."""

    def install(pull: Callable[[], None]) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapped(*args: Any, **options: Any) -> Any:
            if when(*args):
                pull()
            return original(*args, **options)

        setattr(owner, name, wrapped)

    return install


def _after(owner: type, name: str, when: Callable[..., bool] = _always) -> Install:
    """Pull when a method has returned, a coroutine function's coroutine included."""

    def install(pull: Callable[[], None]) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def wrapped(*args: Any, **options: Any) -> Any:
            result = original(*args, **options)
            if when(*args):
                pull()
            return result

        @functools.wraps(original)
        async def wrapped_coroutine(*args: Any, **options: Any) -> Any:
            result = await original(*args, **options)
            if when(*args):
                pull()
            return result

        asynchronous = inspect.iscoroutinefunction(original)
        setattr(owner, name, wrapped_coroutine if asynchronous else wrapped)

    return install


def _during(owner: type, name: str) -> Install:
    """Pull while a coroutine function waits for the network."""

    def install(pull: Callable[[], None]) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        async def wrapped(*args: Any, **options: Any) -> Any:
            asyncio.get_running_loop().call_later(IN_THE_MIDST, pull)
            return await original(*args, **options)

        setattr(owner, name, wrapped)

    return install


class _Watched:
    """A connection that pulls around its COMMIT."""

    def __init__(
        self, connection: sqlite3.Connection, pull: Callable[[], None], *, late: bool
    ) -> None:
        self._connection = connection
        self._pull = pull
        self._late = late

    @property
    def in_transaction(self) -> bool:
        """As SQLite says."""
        return self._connection.in_transaction

    def execute(self, sql: str) -> sqlite3.Cursor:
        """Execute; the process may not survive a COMMIT."""
        if sql == "COMMIT" and not self._late:
            self._pull()
        cursor = self._connection.execute(sql)
        if sql == "COMMIT" and self._late:
            self._pull()
        return cursor


def _commit(*, late: bool) -> Install:
    """Pull before or after the COMMIT of a transaction that stores events."""

    def install(pull: Callable[[], None]) -> None:
        transaction, insert = file.transaction, Writer._insert
        storing = False

        def watched_insert(self: Writer, callbacks: list[Any], last_seq: int) -> Any:
            nonlocal storing
            storing = bool(callbacks)
            return insert(self, callbacks, last_seq)

        def watched_pull() -> None:
            if storing:
                pull()

        def watched(connection: sqlite3.Connection, work: Callable[[], Any]) -> Any:
            proxy: Any = _Watched(connection, watched_pull, late=late)
            return transaction(proxy, work)

        Writer._insert = watched_insert  # type: ignore[method-assign]
        file.transaction = watched

    return install


def _stores(_: object, callbacks: list[Any], __: int) -> bool:
    return bool(callbacks)


def _answers(_: object, commit: Any) -> bool:
    return bool(commit.adds)


def _stores_signature(_: object, identity: Identity) -> bool:
    """Before Kafka sees it."""
    return bool(identity.signature) and identity.predecessor is not None


def _notes_signature(_: object, identity: Identity) -> bool:
    """Kafka has it."""
    return identity.predecessor is None


def _renews(_: object, identity: Identity) -> bool:
    return not identity.signature


POINTS: dict[str, Install] = {
    "insert.before": _before(Writer, "_insert", _stores),
    "insert.after": _after(Writer, "_insert", _stores),
    "commit.before": _commit(late=False),
    "commit.after": _commit(late=True),
    "resolve.before": _before(Journal, "_resolve", _answers),
    "resolve.after": _after(Journal, "_resolve", _answers),
    "begin.before": _before(AIOKafkaProducer, "begin_transaction"),
    "begin.after": _after(AIOKafkaProducer, "begin_transaction"),
    "records.queued": _before(Producer, "_delivered"),
    "records.sent": _after(Producer, "send"),
    "offsets.sent": _after(AIOKafkaProducer, "send_offsets_to_transaction"),
    "transaction.before": _before(AIOKafkaProducer, "commit_transaction"),
    "transaction.during": _during(AIOKafkaProducer, "commit_transaction"),
    "transaction.after": _after(AIOKafkaProducer, "commit_transaction"),
    "settle.before": _before(Journal, "settle"),
    "settle.after": _after(Journal, "settle"),
    "recovery.opened": _after(ExactlyOncePublisher, "open"),
    "recovery.settle": _before(Dispatcher, "_settle_below"),
    "recovery.settled": _after(Dispatcher, "_settle_below"),
    "recovery.store": _before(Journal, "become", _stores_signature),
    "recovery.stored": _after(Journal, "become", _stores_signature),
    "recovery.signed": _after(ExactlyOncePublisher, "sign"),
    "recovery.noted": _after(Journal, "become", _notes_signature),
    "renew.before": _before(Journal, "become", _renews),
    "renew.after": _after(Journal, "become", _renews),
}


def main() -> None:
    """Set the trap, then be `relay`."""
    point, _, passages = sys.argv[1].partition(":")
    POINTS[point](Trigger(int(passages or 1)))
    sys.argv = ["relay", *sys.argv[3:]]
    cli.main()


if __name__ == "__main__":
    main()

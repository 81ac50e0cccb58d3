"""The pending events that are still in memory, so that the dispatcher need not read them back.

It knows all of them or none, and in doubt none: then the journal's file is read.
"""

from collections import deque
from itertools import islice

from relay.events import StoredEvent

#: Bytes of bodies to keep; a longer backlog is read from the file.
MAX_BYTES = 8 * 2**20


class Backlog:
    """What is pending, in the journal's order, as long as it is `complete`."""

    def __init__(self) -> None:
        self._events: deque[StoredEvent] = deque()
        self._bytes = 0
        #: Whether every pending event of the file is here.
        self.complete = False

    def __len__(self) -> int:
        return len(self._events)

    def begin(self) -> None:
        """Start to keep events: the file holds nothing pending at this moment."""
        self._events.clear()
        self._bytes = 0
        self.complete = True

    def forget(self) -> None:
        """Know nothing, until `begin`."""
        self._events.clear()
        self._bytes = 0
        self.complete = False

    def add(self, event: StoredEvent) -> None:
        """Keep the next event; when they are too many, forget all."""
        if not self.complete:
            return
        self._events.append(event)
        self._bytes += len(event.body)
        if self._bytes > MAX_BYTES:
            self.forget()

    def settle(self, last_seq: int) -> None:
        """Let go of the events up to `last_seq`."""
        events = self._events
        while events and events[0].seq <= last_seq:
            self._bytes -= len(events.popleft().body)

    def first(self, limit: int, max_bytes: int) -> list[StoredEvent]:
        """Give the oldest events: not more than `limit`, and none after `max_bytes` are full."""
        events: list[StoredEvent] = []
        size = 0
        for event in islice(self._events, limit):
            if size >= max_bytes:
                break
            events.append(event)
            size += len(event.body)
        return events

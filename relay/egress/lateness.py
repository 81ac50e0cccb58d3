"""Tells whether an event is older than one of its key that this replica has published.

The key is a ticket's id, or another thing's. Pure memory: after a start it knows nothing, and of
many tickets and things it knows the latest ones. So the header `relay_late` may
be absent on a late event, but is never wrong on one that is in time.
"""

from relay.events import Record

#: Tickets and other keys to remember, about 300 bytes each; those that moved last.
TICKETS = 10_000
#: On the record of an event that a consumer may take for stale.
LATE = ("relay_late", b"1")


class Lateness:
    """The latest creation time of each key in each topic."""

    def __init__(self, tickets: int = TICKETS) -> None:
        self._tickets = tickets
        self._published: dict[tuple[str, bytes], str] = {}
        #: What is not published yet, in the order of the records.
        self._offered: dict[tuple[str, bytes], str] = {}

    def begin(self) -> None:
        """Begin a batch; what was offered and never published counts for nothing."""
        self._offered.clear()

    def late(self, record: Record) -> bool:
        """Offer a record; say whether a later one of its key and topic went before it."""
        if record.created_at is None:
            return False
        place = (record.topic, record.key)
        latest = self._offered.get(place) or self._published.get(place, "")
        if record.created_at >= latest:
            self._offered[place] = record.created_at
        return record.created_at < latest

    def published(self) -> None:
        """Remember the batch: Kafka has it."""
        for place, created_at in self._offered.items():
            # Again at the end: the ticket has moved last.
            self._published.pop(place, None)
            self._published[place] = created_at
        self._offered.clear()
        while len(self._published) > self._tickets:
            del self._published[next(iter(self._published))]

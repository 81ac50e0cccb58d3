"""How long things are remembered: every question of age, of the door, the clean-up and the claims.

What is forgotten is never for a wall clock to say, which somebody may set. It is the journal's own
time that counts: how long it has been open, kept in its file. So days in which no relay ran make
nothing older, and a jump of the clock makes nothing old.
"""

import sqlite3
import time

import structlog

from relay.events import REFUSALS, DeadLetterReason
from relay.observe import clock

log = structlog.get_logger()

#: Milliseconds. Feishu's last retry comes 7.1 hours after the first attempt; what is older is sent
#: by somebody else.
OLDEST_REQUEST = 8 * 3600 * 1000
#: Milliseconds that a request's timestamp may lie ahead of our clock.
CLOCK_SKEW = 5 * 60 * 1000
#: Milliseconds of the journal's time between two notes in its file.
NOTE_INTERVAL = 60 * 1000

_NOTE = "UPDATE journal SET open_for = ?"
#: Up to which seq every event has its ending at this moment.
_SETTLED = (
    "SELECT coalesce((SELECT seq - 1 FROM events WHERE outcome IS NULL ORDER BY seq LIMIT 1),"
    " (SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0)"
)
#: Nothing was settled since the last mark: it says all.
_MARK = (
    "INSERT INTO marks (open_for, seq) SELECT ?, ?2"
    " WHERE ?2 > coalesce((SELECT max(seq) FROM marks), 0)"
)
_PASSED = "SELECT seq FROM marks WHERE open_for <= ? ORDER BY open_for DESC LIMIT 1"
#: The latest of the passed ones says what all of them did.
_UNMARK = "DELETE FROM marks WHERE open_for < (SELECT max(open_for) FROM marks WHERE open_for <= ?)"


class Retention:
    """The memory of one journal. But for `open_for`, its writer's thread alone may ask."""

    def __init__(self, window: float, *, letters_alone: bool = False) -> None:
        """`window` is the dedupe window in seconds; `letters_alone`: no topic has their bodies."""
        #: Reasons of dead letters of which only the journal has the body.
        self.alone = DeadLetterReason if letters_alone else REFUSALS
        #: The same in milliseconds of the journal's time.
        self.window = int(window * 1000)
        #: Seconds for which other replicas are told of an event.
        self.claim_seconds = int(window)
        #: Milliseconds for which relays have had this journal open, in all.
        self.open_for = 0
        self._noted: int | None = None
        self._boot, self._wall = clock.boot(), time.time()

    @staticmethod
    def stale(signed_at: int, received_at: int) -> bool:
        """Whether a signed request is too old, or too far ahead, to be of Feishu's sending.

        Both are Unix times in milliseconds. The last retry of an event that passes is signed
        7.1 hours after the first, and is refused 8 hours later: the event is remembered for longer.
        """
        return not -CLOCK_SKEW <= received_at - signed_at <= OLDEST_REQUEST

    def over(self, since: int) -> bool:
        """Whether a whole window has passed since `open_for` was so much."""
        return self.open_for - since >= self.window

    def restore(self, connection: sqlite3.Connection) -> None:
        """Take up the journal's time where its file has it."""
        self.open_for = int(connection.execute("SELECT open_for FROM journal").fetchone()[0])

    def look(self) -> bool:
        """Count the time since the last look; give whether it is time for a note.

        What counts is the less of two clocks: while one of them jumps, nothing grows old by it.
        """
        boot, wall = clock.boot(), time.time()
        elapsed, told = boot - self._boot, wall - self._wall
        self._boot, self._wall = boot, wall
        if abs(told - elapsed) * 1000 > CLOCK_SKEW:
            log.warning("clock_jumped", seconds=round(told - elapsed))
        self.open_for += int(max(0.0, min(elapsed, told)) * 1000)
        return self._noted is None or self.open_for >= self._noted + NOTE_INTERVAL

    def note(self, connection: sqlite3.Connection) -> None:
        """Write down the journal's time, and what was settled by now; in a transaction."""
        connection.execute(_NOTE, (self.open_for,))
        (settled,) = connection.execute(_SETTLED).fetchone()
        connection.execute(_MARK, (self.open_for, settled))
        connection.execute(_UNMARK, (self.open_for - self.window,))
        self._noted = self.open_for

    def passed(self, connection: sqlite3.Connection) -> int:
        """Give the seq up to which every event was settled a whole window ago; 0 for none."""
        row = connection.execute(_PASSED, (self.open_for - self.window,)).fetchone()
        return int(row[0]) if row else 0

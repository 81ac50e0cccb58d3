"""Moves pending events from the journal into Kafka, in order, for ever.

The one recovery path: after a start and after any failure the publisher is opened anew, its answer
settles what Kafka already has, and the loop goes on from the journal.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from relay.contract.normalize import Router, dead_letter, normalize
from relay.egress.kafka.faults import describe
from relay.egress.lateness import LATE, Lateness
from relay.egress.publisher import Publisher
from relay.egress.recovery import Recovery
from relay.egress.tenure import Why
from relay.errors import (
    BatchRefusedError,
    ClaimsError,
    FencedError,
    JournalError,
    KafkaRefusedError,
    PublishError,
    RecordRefusedError,
    RecordTooLargeError,
    RejectedError,
)
from relay.events import (
    OTHER_REPLICA,
    DeadLetterReason,
    Landing,
    Outcome,
    Record,
    Settlement,
    StoredEvent,
    Verdict,
    withheld,
)
from relay.fairness import Turns
from relay.journal.journal import Journal
from relay.journal.rows.claimed import Claimed
from relay.observe.logs import Changes
from relay.observe.metrics import Metrics
from relay.observe.traces import traceparent

if TYPE_CHECKING:
    from relay.claims.claims import Claims  # where there is one replica, `redis` is not loaded
    from relay.observe.spans import Spans

log = structlog.get_logger()

#: Events, and bytes of their bodies, in one transaction at most.
BATCH_EVENTS, BATCH_BYTES = 6000, 8 * 2**20
#: A longer batch takes more of the event loop than answers do, in proportion: a transaction waits
#: for Kafka several times, only answers run meanwhile, and the next batch would grow without end.
FAIR_BATCH = 1000
#: Seconds after which an idle dispatcher looks for replayed events.
IDLE_LOOK = 1.0
#: Seconds of the first wait after a failure, doubled up to the longest.
FIRST_WAIT, LONGEST_WAIT = 0.2, 5.0
#: On records that no claim vouches for: another replica may have published the event too.
_SKIPPED = ("relay_dedupe", b"skipped")


class Dispatcher:
    """The only consumer of the journal."""

    def __init__(
        self,
        journal: Journal,
        publisher: Publisher,
        router: Router,
        metrics: Metrics,
        claims: "Claims | None" = None,
        spans: "Spans | None" = None,
    ) -> None:
        self._journal = journal
        self._publisher = publisher
        self._router = router
        self._metrics = metrics
        #: None where there is one replica only.
        self._claims = claims
        #: None where no traces are exported.
        self._spans = spans
        self.changes = Changes(log, "kafka_connected")
        #: None where there is one replica only.
        self.claims_changes = claims.changes if claims else None
        self._recovery = Recovery(journal, publisher, self._settle_below, self._release)
        self._wait = FIRST_WAIT
        #: Events in the next batch at most: half of one for which time may have been too short.
        self._batch_events = BATCH_EVENTS
        #: Events whose records were refused alone, in the last attempt.
        self._refused_once: set[int] = set()
        self._lateness = Lateness()
        #: Set once Kafka has taken what was pending.
        self.connected = asyncio.Event()
        #: Set whenever the journal was found to hold nothing pending.
        self.idle = asyncio.Event()

    async def run(self) -> None:
        """Dispatch until cancelled; ends by itself only with FencedError."""
        while True:
            try:
                await self._run_until_failure()
            except FencedError:
                raise
            except (BatchRefusedError, RecordRefusedError):
                continue
            except KafkaRefusedError as error:
                await self._hold("kafka_refuses", error)
            except PublishError as error:
                await self._hold("kafka_unavailable", error)
            except (RejectedError, JournalError) as error:
                await self._hold_for_journal(error)
            except Exception as error:  # noqa: BLE001 - the supervisor: no fault may end the loop
                await self._hold("dispatch_failed", error)

    async def recover(self) -> None:
        """Settle what Kafka already has, and publish nothing.

        Raises PublishError if Kafka does not tell, ClaimsError or RejectedError.
        """
        try:
            await self._recovery.run()
        finally:
            await self._publisher.close()

    async def _run_until_failure(self) -> None:
        try:
            await self._recovery.run()
            if self._claims is None:
                await self._journal.note_claimed(Claimed())
            while True:
                await self._dispatch()
        except FencedError as error:
            with suppress(RejectedError):
                await self._let_go(error.alone_from)
            # Who took over keeps the name: what is pending here goes out under another one, when
            # this journal is run or drained again.
            with suppress(RejectedError):
                await self._recovery.rename(Why.REPLACED)
            raise
        finally:
            self._metrics.kafka_up.set(0)
            await self._publisher.close()

    async def _let_go(self, alone_from: int) -> None:
        """Part from a name that is another's now, and keep what is ours alone: from that seq on."""
        await self._release(alone_from)
        while batch := [event for event in await self._pending() if event.seq < alone_from]:
            await self._settle(batch, [self._lost(event) for event in batch])

    async def _release(self, first_seq: int) -> None:
        """Let go of claims under a name that we part from, where nobody else has the events."""
        if self._claims:
            try:
                await self._claims.release(self._journal.id, first_seq)
            except ClaimsError as error:
                log.warning("claims_not_released", error=str(error))

    async def _hold_for_journal(self, error: RejectedError | JournalError) -> None:
        if isinstance(error, RejectedError):
            await self._hold("settle_failed", error)
        else:
            await self._hold("journal_not_readable", error)

    async def _hold(self, event: str, error: Exception) -> None:
        """Wait before the next attempt, longer each time; the events wait in the journal."""
        self.changes.failing(event, describe(error))
        await asyncio.sleep(self._wait * random.uniform(0.5, 1))  # noqa: S311 - jitter
        self._wait = min(self._wait * 2, LONGEST_WAIT)

    async def _settle_below(self, offset: int) -> None:
        """Settle the rows whose records are in Kafka: their commit's answer was lost."""
        while batch := [event for event in await self._pending() if event.seq < offset]:
            verdict = await self._verdict(batch)
            await self._settle(batch, [end for end, _ in self._endings(batch, verdict)])

    async def _dispatch(self) -> None:
        """Publish and settle one batch, or wait until there is one."""
        self._journal.arrived.clear()
        batch = await self._journal.pending(self._batch_events, BATCH_BYTES)
        if not batch:
            self._connected()
            self.idle.set()
            if self._claims:
                await self._claims.look()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._journal.arrived.wait(), IDLE_LOOK)
            return
        self._recovery.sending(batch[-1].seq)
        verdict = await self._verdict(batch)
        claimed_at = None if self._claims is None or verdict.skipped else _now()
        with self._metrics.publish_seconds.time():
            settlements, landings = await self._publish(batch, verdict)
        self._connected()
        await self._settle(batch, settlements, claimed_at, landings)

    async def _pending(self) -> list[StoredEvent]:
        return await self._journal.pending(BATCH_EVENTS, BATCH_BYTES)

    def _connected(self) -> None:
        """Say so only now: opening alone does not show that Kafka takes what is pending."""
        self._wait = FIRST_WAIT
        # By a quarter, so that four of five fit where the most that fits is less than a batch.
        self._batch_events = min(self._batch_events * 5 // 4 + 1, BATCH_EVENTS)
        self._metrics.kafka_up.set(1)
        self.connected.set()
        self.changes.working()

    async def _verdict(self, batch: Sequence[StoredEvent]) -> Verdict:
        """Learn which events another replica publishes."""
        if self._claims is None:
            return Verdict()
        await self._recovery.confirmed(batch[0].seq - 1)
        verdict = await self._claims.ask(self._with_former(batch), self._journal.id)
        # Whoever waits for a store that is away sleeps too.
        await self._recovery.confirmed(batch[0].seq - 1)
        return verdict

    def _with_former(self, batch: Sequence[StoredEvent]) -> Sequence[StoredEvent]:
        """Name what else may have claimed the events for us: a name that Kafka has forgotten."""
        file = self._journal.identity
        if not file.former_ids:
            return batch
        return [
            replace(event, origin=f"{event.origin or ''} {file.former_ids}".strip())
            if event.seq <= file.former_seq
            else event
            for event in batch
        ]

    async def _publish(
        self, batch: Sequence[StoredEvent], verdict: Verdict
    ) -> tuple[list[Settlement], Sequence[Landing]]:
        """Make the records and publish them; give how each event ended, and where they lie."""
        ours = [event for place, event in enumerate(batch) if _published(place, event, verdict)]
        if not ours:
            return [settlement for settlement, _ in self._endings(batch, verdict)], ()
        settlements: list[Settlement] = []
        records = self._records(batch, verdict, settlements)
        try:
            landings = await self._publisher.publish(records, batch[-1].seq)
        except RecordRefusedError as error:
            await self._give_up([ours[position] for position in error.positions], error)
            raise
        except BatchRefusedError as error:
            log.warning("batch_refused", fate=error.fate, error=str(error))
            raise
        except PublishError:
            self._batch_events = max(len(batch) // 2, 1)
            raise
        self._recovery.heard()
        return settlements, landings

    async def _records(
        self, batch: Sequence[StoredEvent], verdict: Verdict, settlements: list[Settlement]
    ) -> AsyncIterator[Record]:
        """Make one record after the other, so that only packed ones take memory."""
        turns = Turns(len(batch) / FAIR_BATCH)
        for settlement, record in self._endings(batch, verdict):
            settlements.append(settlement)
            if record:
                yield record
            if turns.due():
                await turns.give()

    def _endings(
        self, batch: Sequence[StoredEvent], verdict: Verdict
    ) -> Iterator[tuple[Settlement, Record | None]]:
        """Decide how each event ends, and make the record if it is ours to publish."""
        self._lateness.begin()
        for place, event in enumerate(batch):
            if not _published(place, event, verdict):
                lost = place in verdict.lost
                yield self._lost(event) if lost else _withheld(event), None
                continue
            record = self._record(event)
            if record.outcome is Outcome.PUBLISHED:
                trace = traceparent(event, exported=self._spans is not None)
                record.headers.append(("ce_traceparent", trace))
            if verdict.skipped:
                record.headers.append(_SKIPPED)
            if self._lateness.late(record):
                record.headers.append(LATE)
            yield settled_as(event, record), record

    def _lost(self, event: StoredEvent) -> Settlement:
        """Say that another replica publishes it; whose ticket it is about is asked here too."""
        return Settlement(
            seq=event.seq,
            outcome=Outcome.DUPLICATE,
            reason=OTHER_REPLICA,
            event=event,
            ticket=self._router.ids(event)[0],
        )

    def _record(self, event: StoredEvent) -> Record:
        """Make one record; whatever happens here, the next event gets its turn."""
        if event.refused:
            return self._letter(event, event.refused, keep_value=False)
        try:
            return normalize(event, self._router)
        except Exception as error:  # noqa: BLE001 - one event's fault never stops the next
            log.warning("normalize_failed", event_id=event.event_id, error=type(error).__name__)
            return self._letter(event, DeadLetterReason.INTERNAL_ERROR)

    def _letter(
        self, event: StoredEvent, reason: DeadLetterReason, *, keep_value: bool = True
    ) -> Record:
        """Make a dead letter of what is an event: an operator looks for its ticket."""
        letter = dead_letter(event, self._router, reason, keep_value=keep_value)
        return replace(letter, ticket=self._router.ids(event)[0])

    async def _give_up(self, events: Sequence[StoredEvent], error: RecordRefusedError) -> None:
        """Make dead letters of what the broker refuses; what is not too large gets one more try."""
        if any(event.refused for event in events):
            message = f"the broker does not even take a dead letter: {error}"
            raise KafkaRefusedError(message) from error
        reason, known = DeadLetterReason.TOO_LARGE, events
        if not isinstance(error, RecordTooLargeError):
            reason = DeadLetterReason.REFUSED
            known = [event for event in events if event.seq in self._refused_once]
            self._refused_once = {event.seq for event in events}
        if known:
            await self._journal.mark_refused([event.seq for event in known], reason)
        for event in known:
            name, size = event.event_id, len(event.body)
            if reason is DeadLetterReason.TOO_LARGE:
                log.warning("record_too_large", event_id=name, bytes=size)
            else:
                log.warning("record_refused", event_id=name, bytes=size, error=str(error))

    async def _settle(
        self,
        batch: Sequence[StoredEvent],
        settlements: Sequence[Settlement],
        claimed_at: int | None = None,
        landings: Sequence[Landing] = (),
    ) -> None:
        """Write down how the batch ended, then count it."""
        now = _now()
        self._lateness.published()
        if self._claims:
            self._claims.published()
        await self._journal.settle(settlements, now, claimed_at, landings)
        if self._spans:
            self._spans.settled(batch, settlements, now)
        self._metrics.ledger.settled(Counter(settlement.outcome for settlement in settlements))
        for event in batch:
            if not event.replayed:
                self._metrics.end_to_end_seconds.observe((now - event.received_at) / 1000)


def _published(place: int, event: StoredEvent, verdict: Verdict) -> bool:
    """Whether an event is for a topic, and for us to publish."""
    return place not in verdict.lost and not withheld(event.event_type)


def _withheld(event: StoredEvent) -> Settlement:
    return Settlement(seq=event.seq, outcome=Outcome.WITHHELD, event=event)


def settled_as(event: StoredEvent, record: Record) -> Settlement:
    """Say how an event ends whose record Kafka takes."""
    return Settlement(
        seq=event.seq,
        outcome=record.outcome,
        reason=record.reason,
        event=event,
        topic=record.topic,
        ticket=record.ticket,
        message_id=record.message_id,
    )


def _now() -> int:
    """Unix time in milliseconds."""
    return int(time.time() * 1000)

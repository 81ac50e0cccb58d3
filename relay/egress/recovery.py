"""Opens the publisher under the name that is the journal's, and has Kafka confirm that it still is.

The steps of the state machine in `tenure`, done: a signature is on disk before Kafka sees it. It
publishes no event.
"""

import uuid
from collections.abc import Awaitable, Callable

import structlog

from relay.egress.publisher import Publisher
from relay.egress.tenure import Place, Step, Tenure, Why
from relay.errors import FencedError
from relay.journal.journal import Journal
from relay.observe.clock import boot

log = structlog.get_logger()

#: Seconds without a word from Kafka after which a claim waits until Kafka confirms who we are.
SILENCE = 1.0


class Recovery:
    """The one recovery path of a process, and who it is to Kafka by what has been said so far."""

    def __init__(
        self,
        journal: Journal,
        publisher: Publisher,
        settle_below: Callable[[int], Awaitable[None]],
        release: Callable[[int], Awaitable[None]],
    ) -> None:
        """`release` lets go of claims, from a seq on."""
        self._journal = journal
        self._publisher = publisher
        self._settle_below = settle_below
        self._release = release
        self._tenure = Tenure(file=journal.identity)
        #: When Kafka last knew this process as the journal's only one, by the boot clock.
        self._heard_at = -SILENCE

    async def run(self) -> None:
        """Settle what Kafka already has, and go on under whatever name is ours.

        Raises FencedError if it is another's now, PublishError or RejectedError.
        """
        while True:
            if self._tenure.held:
                # Before it opens again: that would fence a successor.
                found = await self._publisher.find(self._journal.id)
                known = found and not self._tenure.outdated(found)
                if found and known and await self._parted(found, opened=False):
                    continue
            place = await self._publisher.open(self._journal.id)
            self.heard()
            if place is None:
                return
            if not await self._parted(place, opened=True):
                await self._settle_below(place.offset)
                await self._sign(place)
                return

    async def _parted(self, place: Place, *, opened: bool) -> bool:
        """Take another name if Kafka's word leaves us none; give whether it did."""
        ruling = self._tenure.rule(place)
        if ruling.step is Step.ENDED:
            message = "another process publishes under this journal's id; only one may"
            raise FencedError(message, ruling.below)
        if ruling.why is None or (ruling.below and not opened):
            return False
        self._say_parted(ruling.why, place)
        await self._settle_below(ruling.below)
        if ruling.why is not Why.FORGOTTEN:
            await self._release(ruling.below)
        await self._publisher.close()
        await self.rename(ruling.why)
        return True

    def _say_parted(self, why: Why, place: Place) -> None:
        name, last_seq, offset = self._journal.id, self._tenure.reach, place.offset
        if why is Why.OLDER:
            log.error(
                "journal_older_than_kafka",
                journal=name,
                last_seq=last_seq,
                kafka_offset=offset,
                meaning="what was accepted since the snapshot comes again if Feishu repeats it",
            )
        elif why is Why.REPLACED:
            log.error("journal_replaced", journal=name, last_seq=last_seq, kafka_offset=offset)
        else:
            log.error("journal_forgotten", journal=name)

    async def rename(self, why: Why) -> None:
        """Become another journal to Kafka."""
        renewed = self._tenure.renewed(str(uuid.uuid4()), why, self._journal.last_seq())
        await self._journal.become(renewed.file)
        self._tenure = renewed

    async def _sign(self, place: Place) -> None:
        """Become the owner of the journal's offset: in the file first, then on Kafka."""
        tenure = self._tenure
        if not tenure.stored:
            tenure = tenure.signing(uuid.uuid4().hex, place)
            await self._journal.become(tenure.file)
        self._tenure = tenure.sending(place.offset - 1)
        await self._publisher.sign(self._tenure.successor(place))
        self.heard()
        if not self._tenure.held:
            signed = self._tenure.signed()
            await self._journal.become(signed.file)
            self._tenure = signed

    def sending(self, last_seq: int) -> None:
        """What is published from now on may speak of rows up to `last_seq`."""
        self._tenure = self._tenure.sending(last_seq)

    def heard(self) -> None:
        """Kafka knows this process as the journal's only one, now."""
        self._heard_at = boot()

    async def confirmed(self, settled_seq: int) -> None:
        """After a silence, let Kafka confirm that nobody has taken over.

        Asleep for so long, this process may have a successor, which does not know what has come in:
        a claim under their common name would bind others to what nobody publishes.
        """
        if boot() > self._heard_at + SILENCE:
            await self._publisher.confirm(settled_seq)
            self.heard()

"""The account of what came and how it ended, kept once: what is exposed is read from here.

All of it changes in the event loop, and is scraped there, so it balances at each look.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from relay.events import Outcome, Transport

#: How an event may end.
ENDS = (Outcome.PUBLISHED, Outcome.DUPLICATE, Outcome.DEAD_LETTER, Outcome.WITHHELD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The promise in numbers: received = published + duplicate + dead_letter + withheld + pending.

    What is withheld is no event for anybody: an app's ticket, a credential.
    """

    received: int
    published: int
    duplicate: int
    dead_letter: int
    pending: int
    withheld: int = 0


class Ledger(Collector):
    """Counts what is received and how it ends; pending is the difference."""

    def __init__(self) -> None:
        self._received: Counter[tuple[str, Transport]] = Counter()
        self._settled: Counter[Outcome] = Counter(dict.fromkeys(ENDS, 0))

    def received(self, app: str, transport: Transport, count: int = 1) -> None:
        """Count events that are now pending."""
        self._received[app, transport] += count

    def repeated(self, app: str, transport: Transport, count: int = 1) -> None:
        """Count deliveries that never became a row: received and settled in one."""
        self._received[app, transport] += count
        self._settled[Outcome.DUPLICATE] += count

    def settled(self, counts: Mapping[Outcome, int]) -> None:
        """Count pending events that have come to their end."""
        self._settled.update(counts)

    def account(self) -> Account:
        """Give the totals at this moment."""
        received, settled = self._received.total(), self._settled.total()
        return Account(
            received=received,
            published=self._settled[Outcome.PUBLISHED],
            duplicate=self._settled[Outcome.DUPLICATE],
            dead_letter=self._settled[Outcome.DEAD_LETTER],
            pending=received - settled,
            withheld=self._settled[Outcome.WITHHELD],
        )

    def collect(self) -> Iterator[Metric]:
        """Give the three metrics of the account, for Prometheus."""
        received = CounterMetricFamily(
            "relay_received",
            "Events accepted or recognized as repeats, and the backlog found at start.",
            labels=["app", "transport"],
        )
        for (app, transport), count in self._received.items():
            received.add_metric([app, transport], count)
        settled = CounterMetricFamily(
            "relay_settled", "Events that came to their end, by how.", labels=["outcome"]
        )
        for outcome, count in self._settled.items():
            settled.add_metric([outcome], count)
        pending = GaugeMetricFamily(
            "relay_pending_events", "Events on disk that Kafka does not have yet."
        )
        pending.add_metric([], self.account().pending)
        yield from (received, settled, pending)

"""Every metric, declared once. Reads nothing: the flow reports to it."""

from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from relay.errors import RejectReason
from relay.events import IgnoredReason, LostReason
from relay.observe.account import Account, Ledger

#: Seconds; from one commit on a fast disk to Feishu's limit of 3 s.
ACK_BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.008, 0.015, 0.03, 0.06, 0.1, 0.25, 0.5, 1, 3)
#: Seconds; from one transaction to an outage of a day.
FLOW_BUCKETS = (0.01, 0.02, 0.03, 0.05, 0.1, 0.25, 0.5, 1, 3, 10, 60, 600, 3600, 86400)


class Metrics:
    """The counters of one process."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library lacks it
        self.registry = registry = CollectorRegistry()
        self.ledger = Ledger()
        registry.register(self.ledger)
        self._rejected = Counter(
            "relay_rejected",
            "Requests refused; nothing of them is stored.",
            ["app", "reason"],
            registry=registry,
        )
        self.oldest_pending_seconds = Gauge(
            "relay_oldest_pending_seconds",
            "Age of the oldest event that Kafka does not have yet; 0 when there is none.",
            registry=registry,
        )
        self.accept_seconds = Histogram(
            "relay_accept_seconds",
            "From a request's head read to its answer.",
            buckets=ACK_BUCKETS,
            registry=registry,
        )
        self.commit_seconds = Histogram(
            "relay_commit_seconds",
            "One commit of the journal, fsync included.",
            buckets=ACK_BUCKETS,
            registry=registry,
        )
        self.publish_seconds = Histogram(
            "relay_publish_seconds",
            "One batch into Kafka, its transaction's commit included.",
            buckets=FLOW_BUCKETS,
            registry=registry,
        )
        self.end_to_end_seconds = Histogram(
            "relay_end_to_end_seconds",
            "From an event's arrival to its commit in Kafka.",
            buckets=FLOW_BUCKETS,
            registry=registry,
        )
        self.journal_bytes = Gauge(
            "relay_journal_bytes", "Bytes on disk of the journal's files.", registry=registry
        )
        self.journal_log_bytes = Gauge(
            "relay_journal_log_bytes",
            "Bytes on disk of the journal's write-ahead log alone.",
            registry=registry,
        )
        self.journal_volume_free_bytes = Gauge(
            "relay_journal_volume_free_bytes",
            "Bytes that are free on the journal's volume.",
            registry=registry,
        )
        self.journal_used_bytes = Gauge(
            "relay_journal_used_bytes",
            "Bytes of the journal's pages that hold something; at the maximum it is full.",
            registry=registry,
        )
        self.journal_max_bytes = Gauge(
            "relay_journal_max_bytes", "The setting journal.max_bytes.", registry=registry
        )
        self._journal_info = Gauge(
            "relay_journal_info",
            "1, with the id of the journal: a replica is its journal.",
            ["journal"],
            registry=registry,
        )
        self.kafka_up = Gauge(
            "relay_kafka_up", "1 while the publisher is connected, else 0.", registry=registry
        )

        self._long_connection_up = Gauge(
            "relay_long_connection_up",
            "1 while the app's long connection is open, else 0.",
            ["app"],
            registry=registry,
        )
        self._long_connection_reconnects = Counter(
            "relay_long_connection_reconnects",
            "Attempts to open a long connection again, by why it was lost.",
            ["app", "reason"],
            registry=registry,
        )
        self._long_connection_ignored = Counter(
            "relay_long_connection_ignored",
            "Messages of a long connection that were not taken for events, by why.",
            ["app", "reason"],
            registry=registry,
        )
        self.claims_up = Gauge(
            "relay_claims_up",
            "1 while the claims store answers, or where none is needed, else 0.",
            registry=registry,
        )
        self.claims_up.set(1)
        self._awaited = ""
        self._claims_awaited = Gauge(
            "relay_claims_awaited",
            "1 while nothing is published until the replica's past is claimed; 0 afterwards.",
            ["replica"],
            registry=registry,
        )
        self.claims_waiting = Gauge(
            "relay_claims_waiting_events",
            "Events of the batch that waits for the claims store.",
            registry=registry,
        )
        self.claims_asked = Counter(
            "relay_claims_asked", "Events that were claimed before publishing.", registry=registry
        )
        self.claims_lost = Counter(
            "relay_claims_lost",
            "Events that another replica had claimed; they are settled as duplicates.",
            registry=registry,
        )

    def rejected(self, app: str, reason: RejectReason) -> None:
        """Count a refused request."""
        self._rejected.labels(app, reason).inc()

    def expect(self, apps: Iterable[str]) -> None:
        """Begin the refusals of each app at 0: a rate does not see a series that begins at 1."""
        for app in apps:
            for reason in RejectReason:
                self._rejected.labels(app, reason)

    def connected(self, app: str, *, up: bool) -> None:
        """Note whether an app's long connection is open."""
        self._long_connection_up.labels(app).set(up)

    def reconnecting(self, app: str, reason: LostReason) -> None:
        """Count an attempt to open a long connection again."""
        self._long_connection_reconnects.labels(app, reason).inc()

    def ignored(self, app: str, reason: IgnoredReason) -> None:
        """Count a message of a long connection that is no event."""
        self._long_connection_ignored.labels(app, reason).inc()

    def awaited(self, replica: str) -> None:
        """Note which replica's past is waited for; empty: no more."""
        if self._awaited and self._awaited != replica:
            self._claims_awaited.labels(self._awaited).set(0)
        if replica:
            self._claims_awaited.labels(replica).set(1)
        self._awaited = replica

    def identified(self, journal: str) -> None:
        """Note the journal's id, which may change."""
        self._journal_info.clear()
        self._journal_info.labels(journal).set(1)

    def value(self, name: str, **labels: str) -> float:
        """Give what a metric shows at this moment; 0 where it shows nothing."""
        return self.registry.get_sample_value(name, labels) or 0

    def account(self) -> Account:
        """Give the totals at this moment; they always balance."""
        return self.ledger.account()

    def exposition(self) -> bytes:
        """Render all metrics in Prometheus' text format."""
        return generate_latest(self.registry)

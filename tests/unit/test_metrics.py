"""The account balances, and every metric has the name that the design gives it."""

import re

from hypothesis import given
from hypothesis import strategies as st

from relay.errors import RejectReason
from relay.events import Outcome, Transport
from relay.observe.account import ENDS, Account
from relay.observe.metrics import Metrics

NAMES = {
    "relay_received_total",
    "relay_rejected_total",
    "relay_settled_total",
    "relay_pending_events",
    "relay_oldest_pending_seconds",
    "relay_accept_seconds",
    "relay_commit_seconds",
    "relay_publish_seconds",
    "relay_end_to_end_seconds",
    "relay_journal_info",
    "relay_journal_bytes",
    "relay_journal_log_bytes",
    "relay_journal_used_bytes",
    "relay_journal_volume_free_bytes",
    "relay_journal_max_bytes",
    "relay_kafka_up",
    "relay_long_connection_up",
    "relay_long_connection_reconnects_total",
    "relay_long_connection_ignored_total",
    "relay_claims_awaited",
    "relay_claims_up",
    "relay_claims_waiting_events",
    "relay_claims_asked_total",
    "relay_claims_lost_total",
}


def samples(metrics: Metrics) -> dict[str, float]:
    """Read the exposition as Prometheus does."""
    lines = metrics.exposition().decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_every_metric_is_there_from_the_start() -> None:
    """With a sentence of help, and nothing that the design does not name."""
    text = Metrics().exposition().decode()
    helped = dict(re.findall(r"^# HELP (\S+) (.+)$", text, re.MULTILINE))
    assert set(helped) == NAMES
    assert all(sentence.endswith(".") for sentence in helped.values())


def test_every_way_to_end_is_exposed_at_zero() -> None:
    """A rate can be taken of the first event already."""
    found = samples(Metrics())
    assert {name: value for name, value in found.items() if name.startswith("relay_settled")} == {
        'relay_settled_total{outcome="published"}': 0,
        'relay_settled_total{outcome="duplicate"}': 0,
        'relay_settled_total{outcome="dead_letter"}': 0,
        'relay_settled_total{outcome="withheld"}': 0,
    }


def test_an_event_moves_from_pending_to_its_end() -> None:
    metrics = Metrics()
    metrics.ledger.received("default", Transport.WEBHOOK, 3)
    metrics.ledger.repeated("default", Transport.LONG_CONNECTION, 2)
    metrics.ledger.settled({Outcome.PUBLISHED: 1, Outcome.DEAD_LETTER: 1})
    expected = Account(received=5, published=1, duplicate=2, dead_letter=1, pending=1)
    assert expected == metrics.account()
    found = samples(metrics)
    assert found['relay_received_total{app="default",transport="webhook"}'] == 3
    assert found['relay_received_total{app="default",transport="long_connection"}'] == 2
    assert found["relay_pending_events"] == 1


def test_a_refusal_is_counted_by_its_reason() -> None:
    metrics = Metrics()
    metrics.rejected("default", RejectReason.STALE)
    found = samples(metrics)
    assert found['relay_rejected_total{app="default",reason="stale"}'] == 1
    assert metrics.account().received == 0


def test_two_processes_parts_do_not_share_counters() -> None:
    """No global registry."""
    one, other = Metrics(), Metrics()
    one.ledger.received("default", Transport.WEBHOOK)
    assert (one.account().received, other.account().received) == (1, 0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["received", "repeated", *Outcome]),
            st.integers(min_value=1, max_value=9),
        )
    )
)
def test_account_balances_after_every_step(steps: list[tuple[str, int]]) -> None:
    """What is exposed and what is counted inside say the same."""
    metrics = Metrics()
    for step, count in steps:
        if step == "received":
            metrics.ledger.received("a", Transport.WEBHOOK, count)
        elif step == "repeated":
            metrics.ledger.repeated("b", Transport.LONG_CONNECTION, count)
        elif step in ENDS:
            metrics.ledger.settled({Outcome(step): count})
        account, found = metrics.account(), samples(metrics)
        settled = account.published + account.duplicate + account.dead_letter + account.withheld
        assert account.received == settled + account.pending
        assert found["relay_pending_events"] == account.pending
        received = sum(v for k, v in found.items() if k.startswith("relay_received_total"))
        assert received == account.received
        assert settled == sum(v for k, v in found.items() if k.startswith("relay_settled_total"))

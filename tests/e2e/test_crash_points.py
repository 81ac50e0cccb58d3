"""Dies at every await and every commit between an event's bytes and its settling.

The places are read from the code, so a new one cannot be forgotten: it is tried, or the test asks
why it is not on the way.
"""

import asyncio
import signal
from pathlib import Path

import pytest

from tests.conftest import Say
from tests.e2e.points import places
from tests.e2e.process import ForkedRelay, Relay
from tests.kafka_server import Broker
from tests.oracle import Oracle

#: Functions that no event passes between its bytes and its settling, and why.
ASIDE = {
    "webhook.WebhookServer.start": "nothing has come in yet",
    "webhook.WebhookServer.stop": "nothing comes in any more",
    "journal.Journal.close": "everything is settled, or stays on disk",
    "journal.Journal.watch": "it waits for a thread to die",
    "journal.Journal.probe": "a question of the load balancer's",
    "journal.Journal.mark_refused": "tests/e2e/test_faults.py, with a record that is too large",
    "journal.Journal.note_claimed": "only with claims: tests/lab",
    "dispatcher.Dispatcher._hold": "a wait after a failure: nothing is done",
    "dispatcher.Dispatcher._hold_for_journal": "the same",
    "dispatcher.Dispatcher._let_go": "a process that was replaced: tests/lab, its zombies",
    "dispatcher.Dispatcher._release": "the same",
    "recovery.Recovery._parted": "tests/e2e/crash.py dies there, with a restored journal",
    "recovery.Recovery.rename": "the same",
    "recovery.Recovery.confirmed": "only with claims: tests/lab",
    "dispatcher.Dispatcher._give_up": "as mark_refused",
    "dispatcher.Dispatcher.recover": "`relay events export`, which publishes nothing",
    "publisher.AtLeastOncePublisher": "tests/e2e/test_oracle.py, for that delivery",
    "publisher.ExactlyOncePublisher.confirm": "only with claims; it is aborted whatever happens",
    "publisher.ExactlyOncePublisher.find": "reads only, in a process that failed",
    "publisher._Session.close": "what is thrown away has no part in anything",
    "producer.Producer.discard": "the same",
    "producer.Producer.abort": "as confirm",
}
#: Single places of the others that ordinary traffic does not pass, and why.
SELDOM = {
    "webhook.WebhookServer._read:1": "a body that comes in pieces: nothing is stored before",
    "journal.Journal._read:1": "a turn given to others amid a long backlog",
    "dispatcher.Dispatcher.run:1": "it returns only with an error",
    "dispatcher.Dispatcher.run:2": "after a failure: _hold",
    "dispatcher.Dispatcher.run:3": "the same",
    "dispatcher.Dispatcher.run:4": "the same",
    "dispatcher.Dispatcher.run:5": "the same",
    "dispatcher.Dispatcher._run_until_failure:4": "claims let go, of a process that was replaced",
    "dispatcher.Dispatcher._run_until_failure:5": "another name, the same",
    "dispatcher.Dispatcher._run_until_failure:6": "the publisher is thrown away, at the end",
    "recovery.Recovery.run:1": "at a second recovery: reads only",
    "recovery.Recovery.run:2": "_parted",
    "dispatcher.Dispatcher._dispatch:2": "claims, while idle",
    "dispatcher.Dispatcher._dispatch:3": "the wait for new events",
    "dispatcher.Dispatcher._verdict:1": "only with claims: tests/lab",
    "dispatcher.Dispatcher._verdict:2": "the same",
    "dispatcher.Dispatcher._verdict:3": "the same",
    "dispatcher.Dispatcher._publish:2": "_give_up",
    "producer.Producer._start:2": "a broker that numbers no producers: at least once",
    "producer.Producer._start:3": "the same",
    "producer.Producer.send:2": "one partition's batch is full: the rest is sent as any other",
}


def function(place: str) -> str:
    return place.split(":", 1)[0]


def aside(place: str) -> bool:
    name = function(place)
    return any(name == one or name.startswith(f"{one}.") for one in ASIDE)


@pytest.mark.timeout(400)
async def test_dies_at_every_place(
    kafka: Broker, tmp_path: Path, topic_prefix: str, say: Say
) -> None:
    """Each place that is passed, killed there once under load; then every event is there once."""
    async with ForkedRelay(tmp_path, kafka.bootstrap, topic_prefix) as relay:
        oracle = Oracle(relay.url)
        recovering, usual = await _passed(relay, oracle, tmp_path)
        passed = recovering | usual
        unpassed = {p for p in places() if p not in passed and not aside(p)}
        unexplained = sorted({place.rpartition(":")[0] for place in unpassed} - set(SELDOM))
        assert not unexplained, unexplained
        to_try = [place for place in places() if place in passed and not aside(place)]
        to_try = [place for place in to_try if place.rpartition(":")[0] not in SELDOM]
        async with oracle.load():
            for place in to_try:
                if place not in usual:
                    # A crash that leaves something to be recovered.
                    relay.start(crash="transaction.after:3")
                    await relay.ended()
                relay.start(point=f"die:{place}")
                assert await relay.ended() == -signal.SIGKILL, place
            await relay.serving()
        await relay.drained(60)
        assert await relay.stopped() == 0
        report = await oracle.compared(relay.bootstrap, relay.prefix)
    say(f"killed at {len(to_try)} places of {len(places())}: {report}")
    assert len(to_try) > 40
    assert not report.faults(), report.faults()


async def _passed(relay: Relay, oracle: Oracle, directory: Path) -> list[set[str]]:
    """Learn which places a start and some load pass: after a crash, and after an orderly end."""
    relay.start(crash="transaction.after:2")
    await oracle.send(40, give_up=5)
    await relay.ended()
    found = []
    for name in ("recovering", "usual"):
        relay.start(point=f"seen:{directory / name}")
        await relay.ready()
        await oracle.send(100)
        await relay.drained()
        assert await relay.stopped() == 0
        found.append(set((await asyncio.to_thread((directory / name).read_text)).split()))
    return found


def test_every_exception_is_one() -> None:
    """A name that is none, or no longer one, would hide a place."""
    known = {place.rpartition(":")[0] for place in places()}
    assert set(SELDOM) <= known
    functions = {function(place) for place in known}
    for name in ASIDE:
        assert any(one == name or one.startswith(f"{name}.") for one in functions), name

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
    "webhook.WebhookServer._health": "a question of the load balancer's",
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
    "producer.Producer.forbidden": "a question of `relay check`",
    "producer._Question": "the same",
}
#: Single places of the others that ordinary traffic does not pass, and why.
SELDOM = {
    "webhook.WebhookServer._answer:1": "_health",
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


#: How a process may end, for the next one to find: with a transaction that is committed and not
#: settled, with one that is open, in an orderly way.
WAYS = ("transaction.after:3", "records.sent:2", "")
#: As the place before has left it, which leads to most; seconds until it is another way's turn.
ANY, PATIENCE = "any", 4.0


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
        seen = await _seen(relay, oracle, tmp_path)
        passed, always = set.union(*seen.values()), set.intersection(*seen.values())
        unpassed = {p for p in places() if p not in passed and not aside(p)}
        unexplained = sorted({place.rpartition(":")[0] for place in unpassed} - set(SELDOM))
        assert not unexplained, unexplained
        to_try = [place for place in places() if place in passed and not aside(place)]
        to_try = [place for place in to_try if place.rpartition(":")[0] not in SELDOM]
        async with oracle.load():
            for place in to_try:
                ways = [way for way, found in seen.items() if place in found]
                await _die_at(relay, place, [ANY, *ways] if place in always else ways)
            await relay.serving()
        await relay.drained(60)
        assert await relay.stopped() == 0
        report = await oracle.compared(relay.bootstrap, relay.prefix)
    say(f"killed at {len(to_try)} places of {len(places())}: {report}")
    assert len(to_try) > 40
    assert not report.faults(), report.faults()


async def _seen(relay: Relay, oracle: Oracle, directory: Path) -> dict[str, set[str]]:
    """Learn which places a start and some load pass, by the way the process before has ended."""
    found = {}
    for number, way in enumerate(WAYS):
        sending = asyncio.create_task(oracle.send(100_000))
        await _end(relay, way)
        sending.cancel()
        await asyncio.wait([sending])
        place = directory / f"seen-{number}"
        relay.start(point=f"seen:{place}")
        await relay.ready()
        await oracle.send(100)
        await relay.drained()
        assert await relay.stopped() == 0
        found[way] = set((await asyncio.to_thread(place.read_text)).split())
    return found


async def _die_at(relay: Relay, place: str, ways: list[str]) -> None:
    """Kill it there; after one of these ends of the process before."""
    for way in ways:
        if way != ANY:
            await _end(relay, way)
        relay.start(point=f"die:{place}")
        try:
            code = await relay.ended(30 if way == ways[-1] else PATIENCE)
        except AssertionError:
            await relay.killed()
            continue
        assert code == -signal.SIGKILL, place
        return
    raise AssertionError(place)


async def _end(relay: Relay, way: str) -> None:
    """Run a process that ends like that, under load."""
    if way:
        relay.start(crash=way)
        assert await relay.ended() == -signal.SIGKILL
    else:
        await relay.serving()
        assert await relay.stopped() == 0


def test_every_exception_is_one() -> None:
    """A name that is none, or no longer one, would hide a place."""
    known = {place.rpartition(":")[0] for place in places()}
    assert set(SELDOM) <= known
    functions = {function(place) for place in known}
    for name in ASIDE:
        assert any(one == name or one.startswith(f"{name}.") for one in functions), name

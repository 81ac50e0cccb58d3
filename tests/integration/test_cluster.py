"""Claims in a Redis Cluster whose slots move: an event is another's only if another has it."""

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import replace
from operator import methodcaller
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from relay.claims import claims as claims_module
from relay.claims import store as claimstore
from relay.claims.claims import Claims
from relay.errors import ClaimsRefusedError, ClaimsUnavailableError
from relay.events import Verdict
from relay.journal.retention import Retention
from relay.observe.metrics import Metrics
from relay.settings import Claims as Settings
from relay.settings import OnOutage
from tests.integration.test_claims import WINDOW, stored
from tests.ports import free_port
from tests.redis_cluster import Cluster, redis_cluster
from tests.redis_server import redis_server


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with redis_cluster(tmp_path_factory.mktemp("cluster")) as one:
        yield one


def claims(url: str, metrics: Metrics | None = None, **changes: Any) -> Claims:
    """With time: a new client of a cluster asks it for much before its first claim."""
    settings = Settings(url=SecretStr(url), timeout=10, **changes)
    return Claims(settings, Retention(WINDOW), metrics or Metrics())


@pytest.mark.parametrize("origin", [None, "journal-0"], ids=["plain", "heir of another journal"])
async def test_claims_hold_at_each_step_of_a_slot_that_moves(
    origin: str | None, cluster: Cluster
) -> None:
    """To a node that nobody knew of: what was claimed stays so, what is free is the first one's."""
    tag = f"moving-{origin}"
    one, other = claims(cluster.url), claims(cluster.url)
    old = [replace(stored(f"{{{tag}}}-old-{n}"), origin=origin) for n in range(3)]
    elsewhere = [stored(f"{tag}-{n}") for n in range(20)]
    assert frozenset() == await one.claim(old, "journal-1")
    slot = cluster.slot(f"{{{tag}}}")
    for state in cluster.move(slot):
        fresh = replace(stored(f"{{{tag}}}-{state}"), origin=origin)
        batch = [*elsewhere, fresh, *old]
        assert frozenset() == await one.claim(batch, "journal-1"), state
        assert frozenset(range(len(batch))) == await other.claim(batch, "journal-2"), state
        assert frozenset() == await one.claim(batch, "journal-1"), state
    await one.close()
    await other.close()


async def test_marks_and_lists_are_found_while_their_slots_move(cluster: Cluster) -> None:
    """A mark that is not found says that the store was emptied."""
    one = claims(cluster.url, key_prefix="{marks}")
    await one.announce("relay-0", "journal-1")
    for state in cluster.move(cluster.slot("{marks}")):
        assert await one.announced("relay-0"), state
        assert not await one.announced("relay-9"), state
        await one.enlist(state.replace(" ", "-"))
        assert await one.members() == state.replace(" ", "-")
        await one.ask([stored("a")], "journal-1")
        await one.release("journal-1", 0)
        owner = f"journal of {state}"
        assert frozenset() == await one.claim([stored("a")], owner), state
        for who in ("nobody", owner):
            await one._within(methodcaller("drop", ["{marks}default:a"], who))
    await one.close()


async def test_each_event_has_one_journal_while_slots_move_and_answers_are_lost(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three journals take the same events, each in its own order: nobody's event is nobody's."""
    monkeypatch.setattr(claims_module, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(claims_module, "LONGEST_WAIT", 0.05)
    monkeypatch.setattr(claimstore._Cluster, "claim", _unheard(claimstore._Cluster.claim))
    tags = [f"load-{n}" for n in range(8)]
    events = [stored(f"{{{tag}}}-{n}") for n in range(25) for tag in tags]
    won: list[str] = []

    async def replica(name: str, step: int) -> None:
        one = claims(cluster.url)
        mine = [events[place * step % len(events)] for place in range(len(events))]
        for first in range(0, len(mine), 10):
            batch = mine[first : first + 10]
            verdict = await one.ask(batch, name)
            won.extend(e.event_id for place, e in enumerate(batch) if place not in verdict.lost)
        await one.close()

    async def moving() -> None:
        for tag in tags:
            for _ in cluster.move(cluster.slot(f"{{{tag}}}")):
                await asyncio.sleep(0.01)

    async with asyncio.timeout(100):
        # Steps without a factor in common with the number of events: each takes all of them.
        await asyncio.gather(
            moving(), replica("journal-1", 1), replica("journal-2", 7), replica("journal-3", 199)
        )
    assert sorted(won) == sorted(event.event_id for event in events)


def _unheard(claim: Any) -> Any:
    """Lose every third answer, after the claim was made."""
    count = itertools.count()

    async def claim_unheard(self: claimstore._Cluster, *arguments: Any) -> claimstore.Answer:
        answer: claimstore.Answer = await claim(self, *arguments)
        if next(count) % 3 == 2:
            raise TimeoutError
        return answer

    return claim_unheard


@pytest.mark.parametrize("node", [0, 1])
async def test_any_node_that_forgets_when_it_is_full_is_told(node: int, cluster: Cluster) -> None:
    """Each has settings of its own."""
    place = cluster.nodes[node]
    assert (await claims(cluster.url).about())[1] == ""
    place.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        assert (await claims(cluster.url).about())[1] == "allkeys-lru"
    finally:
        place.call("CONFIG", "SET", "maxmemory-policy", "noeviction")


async def test_cluster_that_is_away_is_unavailable() -> None:
    """As any other store: events wait, or go out unclaimed where the settings say so."""
    url, metrics = f"redis+cluster://127.0.0.1:{free_port()}", Metrics()
    with pytest.raises(ClaimsUnavailableError, match="not available"):
        await claims(url).claim([stored("a")], "journal-1")
    with pytest.raises(ClaimsUnavailableError, match="not available"):
        await claims(url).about()
    one = claims(url, metrics, on_outage=OnOutage.PUBLISH)
    with capture_logs() as logs:
        assert Verdict(skipped=True) == await one.ask([stored("a")], "journal-1")
    assert [line["event"] for line in logs] == ["claims_unavailable"]
    assert metrics.claims_up._value.get() == 0


async def test_server_that_is_no_cluster_is_named_so(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        url = server.url.replace("redis:", "redis+cluster:")
        with pytest.raises(ClaimsUnavailableError, match="Cluster mode is not enabled"):
            await claims(url).claim([stored("a")], "journal-1")


async def test_cluster_refuses_a_wrong_password(tmp_path: Path) -> None:
    bus = ("--cluster-port", str(free_port()), "--requirepass", "right")
    with redis_server(tmp_path, "--cluster-enabled", "yes", *bus) as server:
        wrong = server.url.replace("redis://", "redis+cluster://:wrong-secret@")
        with pytest.raises(ClaimsRefusedError) as refused:
            await claims(wrong).claim([stored("a")], "journal-1")
        assert "wrong-secret" not in str(refused.value)


async def test_cluster_that_lost_slots_is_unavailable(tmp_path: Path) -> None:
    """Half of them have no node: what it does not say is not read as an answer."""
    bus = ("--cluster-port", str(free_port()), "--cluster-require-full-coverage", "no")
    with redis_server(tmp_path, "--cluster-enabled", "yes", *bus) as server:
        server.call("CLUSTER", "ADDSLOTSRANGE", "0", "8191")
        one = claims(server.url.replace("redis:", "redis+cluster:"))
        with pytest.raises(ClaimsUnavailableError):
            await one.claim([stored(f"e-{n}") for n in range(50)], "journal-1")
        await one.close()

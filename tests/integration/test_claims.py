"""Claims against a real Redis: one journal gets an event, whatever the store does meanwhile."""

import asyncio
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from relay.claims import claims as claims_module
from relay.claims import connections, seeding
from relay.claims import store as claimstore
from relay.claims.claims import Claims
from relay.claims.seeding import Seeding
from relay.errors import ClaimsError, ClaimsRefusedError, ClaimsUnavailableError
from relay.events import Outcome, Settlement, StoredEvent, Transport, Verdict
from relay.journal.retention import Retention
from relay.observe.metrics import Metrics
from relay.settings import Claims as Settings
from relay.settings import OnOutage
from tests.fakes import as_json, event, journal_at, payload, until
from tests.kafka_security import secure_listeners
from tests.lab.proxy import Proxy
from tests.ports import free_port
from tests.redis_server import RedisServer, redis_server

WINDOW = 86_400
CONFIGURATION = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


def stored(
    event_id: str, *, app: str = "default", replayed: bool = False, made_at: float = 1
) -> StoredEvent:
    body = payload(event_id)
    body["header"]["create_time"] = str(int(made_at * 1000))
    return StoredEvent(
        seq=1,
        app=app,
        transport=Transport.WEBHOOK,
        received_at=1,
        event_id=event_id,
        event_type="t",
        body=as_json(body),
        replayed=replayed,
    )


def claims(url: str, metrics: Metrics | None = None, **changes: Any) -> Claims:
    settings = Settings(url=SecretStr(url), timeout=0.5, **changes)
    return Claims(settings, Retention(WINDOW), metrics or Metrics())


async def test_first_journal_gets_the_event(server: RedisServer) -> None:
    """It may ask as often as it likes; others are told no."""
    one, other = claims(server.url), claims(server.url)
    batch = [stored("a"), stored("b"), stored("c")]
    assert frozenset() == await one.claim(batch[:2], "journal-1")
    assert frozenset({0, 1}) == await other.claim(batch, "journal-2")
    assert frozenset({2}) == await one.claim(batch, "journal-1")
    await one.close()
    await other.close()


async def test_claim_is_named_as_the_design_says(server: RedisServer) -> None:
    """And it lasts as long as an event is remembered."""
    one = claims(server.url)
    await one.claim([stored("e-1", app="billing")], "journal-1")
    assert b"journal-1" in server.call("GET", "relay:billing:e-1")
    seconds = int(server.call("TTL", "relay:billing:e-1").strip(b":\r\n"))
    assert WINDOW - 5 <= seconds <= WINDOW
    await one.close()


async def test_idle_replica_notices_that_the_store_is_away(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `relay_claims_up` says must be true without events, too."""
    metrics = Metrics()
    one, up = claims(server.url, metrics), metrics.claims_up._value.get
    assert up() == 0
    await one.look()
    assert up() == 1
    monkeypatch.setattr(claims_module, "IDLE_LOOK", 600)
    server.kill()
    await one.look()
    assert up() == 1, "asked only from time to time"
    monkeypatch.setattr(claims_module, "IDLE_LOOK", 0)
    await one.look()
    assert up() == 0
    await one.close()


async def test_newcomer_publishes_nothing_before_the_old_one_has_entered(
    server: RedisServer, tmp_path: Path
) -> None:
    """What the old one has published without claims is not published again."""
    async with journal_at(tmp_path / "old.db") as old, journal_at(tmp_path / "new.db") as new:
        await old.add(event("published"))
        await old.settle([Settlement(seq=1, outcome=Outcome.PUBLISHED)], 1)
        one, other = claims(server.url), claims(server.url)
        one.entry = Seeding(old, one, "relay-0", "relay-0")
        other.entry = Seeding(new, other, "relay-1", "relay-0")
        asking = asyncio.create_task(other.ask([stored("published"), stored("b")], new.id))
        await until(lambda: other._wait > claims_module.FIRST_WAIT)
        await one.look()
        async with asyncio.timeout(10):
            assert Verdict(lost=frozenset({0})) == await asking
    await one.close()
    await other.close()


async def test_emptied_store_learns_again_what_was_published(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And for no longer than it matters: the mark goes with the window."""
    monkeypatch.setattr(seeding, "LOOK", 0.0)
    monkeypatch.setattr(seeding, "BUSY_LOOK", 0.0)
    async with journal_at(tmp_path / "old.db") as old:
        await old.add(event("published"))
        await old.settle([Settlement(seq=1, outcome=Outcome.PUBLISHED)], 1)
        one, other = claims(server.url), claims(server.url)
        one.entry = Seeding(old, one, "relay-0", "relay-0")
        await one.look()
        server.call("FLUSHALL")
        await one.ask([stored("next", made_at=time.time() + 60)], old.id)
        verdict = await other.ask([stored("published"), stored("b")], "journal-2")
        assert verdict == Verdict(lost=frozenset({0}))
    left = int(server.call("TTL", "relay:replica:relay-0").strip(b":\r\n"))
    assert WINDOW - 60 < left <= WINDOW
    await one.close()
    await other.close()


async def test_unpublished_claims_are_let_go(server: RedisServer) -> None:
    """Those alone that were free before, and that are still ours."""
    one, other = claims(server.url), claims(server.url)
    batch = [stored("mine-before"), stored("others"), stored("new"), stored("newer")]
    await one.claim(batch[:1], "journal-1")
    await other.claim(batch[1:2], "journal-2")
    assert Verdict(lost=frozenset({1})) == await one.ask(batch, "journal-1")
    assert Verdict(lost=frozenset({1})) == await one.ask(batch, "journal-1"), "a second try"
    server.call("SET", "relay:default:newer", "journal-3")
    await one.release("journal-1", 0)
    held = [server.call("GET", f"relay:default:{one.event_id}").split()[-1] for one in batch]
    assert held == [b"journal-1", b"journal-2", b"$-1", b"journal-3"]
    await one.ask(batch[2:3], "journal-1")
    one.published()
    await one.release("journal-1", 0)
    assert b"journal-1" in server.call("GET", "relay:default:new")
    await one.close()
    await other.close()


async def test_claim_whose_answer_was_lost_is_let_go(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second try finds the key as our own; it was free before the first."""
    one = claims(server.url)
    claim, failures = claimstore._Server.claim, [TimeoutError()]

    async def claim_unheard(self: claimstore._Server, *arguments: Any) -> claimstore.Answer:
        answer = await claim(self, *arguments)
        if failures:
            raise failures.pop()
        return answer

    monkeypatch.setattr(claimstore._Server, "claim", claim_unheard)
    await one.ask([stored("a")], "journal-1")
    assert b"journal-1" in server.call("GET", "relay:default:a")
    await one.release("journal-1", 0)
    assert b"$-1" in server.call("GET", "relay:default:a")
    await one.close()


async def test_many_claims_are_let_go_in_few_calls(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call has a time limit, however many keys there are; what is gone is not sent again."""
    one, count = claims(server.url), 2 * claims_module.CALL_KEYS + 1
    await one.ask([stored(f"e-{n}") for n in range(count)], "journal-1")
    drop, sizes = claimstore._Server.drop, []

    async def drop_unheard(self: claimstore._Server, keys: Sequence[str], owner: str) -> None:
        await drop(self, keys, owner)
        sizes.append(len(keys))
        if len(sizes) == 2:
            raise TimeoutError

    monkeypatch.setattr(claimstore._Server, "drop", drop_unheard)
    await one.release("journal-1", 0)
    assert sizes == [500, 500, 500, 1]
    assert server.call("DBSIZE") == b":0\r\n"
    await one.close()


async def test_apps_are_apart(server: RedisServer) -> None:
    one = claims(server.url)
    await one.claim([stored("e-1", app="a")], "journal-1")
    assert frozenset() == await one.claim([stored("e-1", app="b")], "journal-2")
    await one.close()


async def test_heir_has_the_claims_of_the_journals_before_it(server: RedisServer) -> None:
    """But nobody else's; and what it takes over is its own from then on."""
    batch = [stored("a"), stored("b"), stored("c"), stored("d")]
    inherited = [replace(one, origin="first second") for one in batch]
    one = claims(server.url)
    await one.claim(batch[:1], "first")
    await one.claim(batch[1:2], "second")
    await one.claim(batch[2:3], "other")
    assert frozenset({0, 1, 2}) == await one.claim(batch, "heir")
    assert frozenset({2}) == await one.claim(inherited, "heir")
    assert frozenset({2}) == await one.claim(batch, "heir")
    assert frozenset({0, 1, 3}) == await one.claim(batch, "other")
    assert frozenset({0, 1, 2, 3}) == await one.claim(inherited, "another heir")
    await one.close()


async def test_replayed_event_is_not_asked_for(server: RedisServer) -> None:
    """An operator wants it again, whoever published it first."""
    one = claims(server.url)
    await one.claim([stored("a"), stored("b")], "journal-1")
    batch = [stored("a", replayed=True), stored("b")]
    assert frozenset({1}) == await one.claim(batch, "journal-2")
    await one.close()


async def test_large_batch_takes_several_calls(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims_module, "CALL_KEYS", 7)
    metrics = Metrics()
    one = claims(server.url, metrics)
    batch = [stored(f"e-{n}") for n in range(50)]
    await one.claim(batch[10:20], "journal-1")
    assert Verdict(lost=frozenset(range(10, 20))) == await one.ask(batch, "journal-2")
    sample = metrics.registry.get_sample_value
    assert tuple(
        sample(f"relay_claims_{name}")
        for name in ("asked_total", "lost_total", "up", "waiting_events")
    ) == (50, 10, 1, 0)
    await one.close()


async def test_hold_waits_until_the_store_is_back(server: RedisServer) -> None:
    """Killed or hung: events wait, and nobody is told more than once."""
    metrics = Metrics()
    one = claims(server.url, metrics)
    await one.ask([stored("a")], "journal-1")
    with capture_logs() as logs:
        server.hang()
        asking = asyncio.create_task(one.ask([stored("b"), stored("c")], "journal-1"))
        sample = metrics.registry.get_sample_value
        await until(lambda: sample("relay_claims_waiting_events") == 2)
        assert sample("relay_claims_up") == 0
        server.kill()
        await asyncio.sleep(0.3)
        assert not asking.done()
        server.start()
        assert Verdict() == await asking
    assert sample("relay_claims_up") == 1
    assert sample("relay_claims_waiting_events") == 0
    names = [line["event"] for line in logs]
    assert names.count("claims_available") == 1
    assert 1 <= names.count("claims_unavailable") <= 3
    await one.close()


async def test_publish_goes_on_without_the_store(server: RedisServer) -> None:
    """And does not wait for it at each batch."""
    one = claims(server.url, on_outage=OnOutage.PUBLISH)
    server.hang()
    assert Verdict(skipped=True) == await one.ask([stored("a")], "journal-1")
    began = time.monotonic()
    for _ in range(20):
        assert (await one.ask([stored("a")], "journal-1")).skipped
    assert time.monotonic() - began < 0.4
    server.go_on()
    async with asyncio.timeout(10):
        while (await one.ask([stored("a")], "journal-1")).skipped:  # noqa: ASYNC110 - it is asked
            await asyncio.sleep(0.05)
    await one.close()


async def test_what_went_out_without_the_store_is_claimed_once_it_is_back(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repeat that reaches another replica later is recognized, over a restart too."""
    monkeypatch.setattr(seeding, "LOOK", 0.0)
    monkeypatch.setattr(seeding, "BUSY_LOOK", 0.0)
    monkeypatch.setattr(claims_module, "LONGEST_WAIT", 0.1)
    async with journal_at(tmp_path / "j.db") as journal:
        one = claims(server.url, on_outage=OnOutage.PUBLISH)
        one.entry = Seeding(journal, one, "", "")
        await one.ask([stored("before")], journal.id)
        server.kill()
        for name in ("a", "b"):
            await journal.add(event(name))
            (row,) = await journal.pending(10, 2**20)
            assert (await one.ask([row], journal.id)).skipped
            await journal.settle([Settlement(seq=row.seq, outcome=Outcome.PUBLISHED)], 1)
        await one.close()
    server.start()
    async with journal_at(tmp_path / "j.db") as journal:
        one = claims(server.url, on_outage=OnOutage.PUBLISH)
        one.entry = Seeding(journal, one, "", "")
        async with asyncio.timeout(10):
            new = stored("next", made_at=time.time() + 60)
            while (await one.ask([new], journal.id)).skipped:  # noqa: ASYNC110 - it is asked
                await asyncio.sleep(0.05)
        other = claims(server.url)
        assert frozenset({0, 1}) == await other.claim([stored("a"), stored("b")], "journal-2")
        await one.close()
        await other.close()


async def test_store_that_was_emptied_takes_no_claim(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the first one after it: what the other has published is not published again."""
    monkeypatch.setattr(seeding, "LOOK", 0.0)
    monkeypatch.setattr(seeding, "BUSY_LOOK", 0.0)
    async with journal_at(tmp_path / "a.db") as a, journal_at(tmp_path / "b.db") as b:
        await a.add(event("published"))
        await a.settle([Settlement(seq=1, outcome=Outcome.PUBLISHED)], 1)
        metrics = Metrics()
        one, other = claims(server.url), claims(server.url, metrics)
        one.entry, other.entry = Seeding(a, one, "", ""), Seeding(b, other, "", "")
        await one.look()
        await other.ask([stored("warm")], b.id)
        server.call("FLUSHALL")
        with capture_logs() as logs:
            asking = asyncio.create_task(other.ask([stored("published")], b.id))
            await asyncio.sleep(0.5)
            assert not asking.done()
            assert metrics.claims_up._value.get() == 1
            await one.ask([stored("next", made_at=time.time() + 60)], a.id)
            async with asyncio.timeout(10):
                assert Verdict(lost=frozenset({0})) == await asking
        names = [line["event"] for line in logs]
        assert {"claims_emptied", "claims_awaited", "claims_available"} <= set(names)
        await one.close()
        await other.close()


async def test_replica_that_is_gone_is_named_and_dismissed(
    server: RedisServer, tmp_path: Path
) -> None:
    """By a command that an operator finds in the error; the store answers all the while."""
    metrics = Metrics()
    async with journal_at(tmp_path / "j.db") as journal:
        one = claims(server.url, metrics)
        one.entry = Seeding(journal, one, "relay-1", "relay-0")
        sample = metrics.registry.get_sample_value
        with capture_logs() as logs:
            asking = asyncio.create_task(one.ask([stored("a")], journal.id))
            await until(lambda: sample("relay_claims_awaited", {"replica": "relay-0"}) == 1)
            assert sample("relay_claims_up") == 1
            await claims(server.url).dismiss("relay-0")
            async with asyncio.timeout(10):
                assert Verdict() == await asking
        assert sample("relay_claims_awaited", {"replica": "relay-0"}) == 0
        (line,) = [one for one in logs if one["event"] == "claims_awaited"]
        assert "relay claims gone relay-0" in line["error"]
        assert server.call("TTL", "relay:replica:relay-0") == b":-1\r\n", "for ever"
        await one.close()


async def test_answer_that_was_lost_is_asked_for_again(server: RedisServer) -> None:
    """The first call may have claimed: the second one finds its own claims."""
    one = claims(server.url)
    await one.claim([stored("warm")], "journal-1")
    server.hang()
    with pytest.raises(ClaimsUnavailableError):
        await one.claim([stored("a")], "journal-1")
    server.go_on()
    assert frozenset() == await one.claim([stored("a")], "journal-1")
    assert frozenset({0}) == await one.claim([stored("a")], "journal-2")
    await one.close()


async def test_nobody_there_is_named() -> None:
    one = claims(f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(ClaimsUnavailableError, match="not available"):
        await one.claim([stored("a")], "journal-1")


async def test_wrong_password_is_refused_and_not_shown(tmp_path: Path) -> None:
    with redis_server(tmp_path, "--requirepass", "right") as server:
        wrong = claims(server.url.replace("//", "//:wrong-secret@"))
        with pytest.raises(ClaimsRefusedError) as refused:
            await wrong.claim([stored("a")], "journal-1")
        assert "wrong-secret" not in str(refused.value)
        right = claims(server.url.replace("//", "//:right@"))
        assert frozenset() == await right.claim([stored("a")], "journal-1")
        await right.close()


async def test_any_password_and_an_ipv6_address_work_when_encoded(tmp_path: Path) -> None:
    """What the settings take is what the server is asked with."""
    both = ("--bind", "127.0.0.1", "-::1")
    with redis_server(tmp_path, "--requirepass", "a#?[]@/%:c", *both) as server:
        for host in ("127.0.0.1", "[::1]"):
            url = f"redis://:a%23%3F%5B%5D%40%2F%25:c@{host}:{server.port}/0"
            version, _ = await claims(url).about()
            assert version.count(".") == 2


async def test_certificate_is_checked(tmp_path: Path) -> None:
    """A server that nobody vouches for is not talked to."""
    security = secure_listeners(tmp_path)
    pem, port = str(tmp_path / "server.pem"), free_port()
    files = ("--tls-cert-file", pem, "--tls-key-file", pem, "--tls-ca-cert-file", pem)
    listener = ("--tls-port", str(port), "--tls-auth-clients", "no", *files)
    url = f"rediss://127.0.0.1:{port}"
    with redis_server(tmp_path, *listener):
        trusting = claims(url, ca_file=security.ca_file)
        assert frozenset() == await trusting.claim([stored("a")], "journal-1")
        await trusting.close()
        with pytest.raises(ClaimsUnavailableError, match="not available"):
            await claims(url).claim([stored("a")], "journal-2")


@pytest.mark.parametrize(
    ("policy", "said"),
    [("noeviction", []), ("allkeys-lru", ["allkeys-lru"]), ("volatile-ttl", ["volatile-ttl"])],
)
async def test_store_that_forgets_when_it_is_full_is_named_once(
    policy: str, said: list[str], server: RedisServer
) -> None:
    server.call("CONFIG", "SET", "maxmemory-policy", policy)
    one = claims(server.url)
    with capture_logs() as logs:
        await one.claim([stored("a")], "journal-1")
        await one._discard()
        await one.claim([stored("a")], "journal-1")
    assert said == [line["policy"] for line in logs if line["event"] == "claims_may_be_evicted"]
    await one.close()


async def test_server_may_ask_for_a_certificate_of_ours(tmp_path: Path) -> None:
    security = secure_listeners(tmp_path)
    pem, authority, port = str(tmp_path / "server.pem"), str(security.ca_file), free_port()
    files = ("--tls-cert-file", pem, "--tls-key-file", pem, "--tls-ca-cert-file", authority)
    url = f"rediss://127.0.0.1:{port}"
    with redis_server(tmp_path, "--tls-port", str(port), "--tls-auth-clients", "yes", *files):
        ours: dict[str, Any] = {
            "cert_file": security.cert_file,
            "key_file": security.key_file,
        }
        known = claims(url, ca_file=security.ca_file, **ours)
        assert frozenset() == await known.claim([stored("a")], "journal-1")
        await known.close()
        with pytest.raises(ClaimsUnavailableError, match="not available"):
            await claims(url, ca_file=security.ca_file).claim([stored("a")], "journal-2")


async def test_sentinels_may_want_a_password_of_their_own(
    tmp_path: Path, server: RedisServer
) -> None:
    """Which is not the server's; with a wrong one nothing is named, and nothing is shown."""
    server.call("CONFIG", "SET", "requirepass", "servers-own")
    password = "sentinel auth-pass main servers-own\nrequirepass sentinels-own\n"
    with sentinel_of(tmp_path, server.port, password) as sentinel:
        url = f"redis+sentinel://:servers-own@127.0.0.1:{sentinel.port}/main"
        one = claims(url, sentinel_password=SecretStr("sentinels-own"))
        assert frozenset() == await one.claim([stored("a")], "journal-1")
        await one.close()
        for wrong in ("", "servers-own"):
            other = claims(url, sentinel_password=SecretStr(wrong))
            with pytest.raises(ClaimsError) as caught:
                await other.claim([stored("a")], "journal-1")
            assert "own" not in str(caught.value)


async def test_sentinels_may_want_tls_and_a_password_of_their_own(tmp_path: Path) -> None:
    """Both at once: the server's password never goes to a sentinel, nor theirs to the server."""
    security = secure_listeners(tmp_path)
    pem = str(tmp_path / "server.pem")
    files = ("--tls-cert-file", pem, "--tls-key-file", pem, "--tls-ca-cert-file", pem)
    tls = [f"{name[2:]} {value}" for name, value in zip(files[::2], files[1::2], strict=True)]
    tls += ["tls-auth-clients no", "tls-replication yes"]
    ports = {name: free_port() for name in ("server", "sentinel")}
    listener = ("--tls-port", str(ports["server"]), "--tls-auth-clients", "no", *files)
    words = [
        "sentinel auth-pass main servers-own",
        "requirepass sentinels-own",
        f"tls-port {ports['sentinel']}",
        *tls,
    ]
    with (
        redis_server(tmp_path, "--requirepass", "servers-own", *listener),
        sentinel_of(tmp_path, ports["server"], "\n".join([*words, ""])),
    ):
        url = f"rediss+sentinel://:servers-own@127.0.0.1:{ports['sentinel']}/main"
        one = claims(url, ca_file=security.ca_file, sentinel_password=SecretStr("sentinels-own"))
        assert frozenset() == await one.claim([stored("a")], "journal-1")
        await one.close()
        for changes in (
            {"sentinel_password": SecretStr("servers-own"), "ca_file": security.ca_file},
            {"ca_file": security.ca_file},
            {"sentinel_password": SecretStr("sentinels-own")},
        ):
            other = claims(url, **changes)
            with pytest.raises(ClaimsError) as caught:
                await other.claim([stored("a")], "journal-1")
            assert "own" not in str(caught.value)
            assert "redis.asyncio" not in str(caught.value)


async def test_old_server_is_refused(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the version it has."""
    monkeypatch.setattr(claimstore, "OLDEST_VERSION", 99)
    with pytest.raises(ClaimsRefusedError, match=r"has version \d+\.\d+.*needs Redis 7 or Valkey"):
        await claims(server.url).claim([stored("a")], "journal-1")


async def test_release_waits_for_the_store(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stays claimed is left to nobody; but a process that must end waits so long only."""
    one = claims(server.url)
    await one.ask([stored("a")], "journal-1")
    server.hang()
    releasing = asyncio.create_task(one.release("journal-1", 0))
    await asyncio.wait({releasing}, timeout=0.8)
    assert not releasing.done()
    server.go_on()
    async with asyncio.timeout(10):
        await releasing
    assert b"$-1" in server.call("GET", "relay:default:a")
    await one.ask([stored("b")], "journal-1")
    monkeypatch.setattr(claims_module, "RELEASE_PATIENCE", 0.1)
    server.kill()
    with pytest.raises(ClaimsUnavailableError):
        await one.release("journal-1", 0)
    await one.close()


def granted(server: RedisServer, *more: str) -> str:
    """Make the user of docs/configuration.md and nobody else; give its URL."""
    (line,) = re.findall(r"^ *(ACL SETUSER relay .*)$", CONFIGURATION.read_text(), re.MULTILINE)
    assert server.call(*line.split(), *more) == b"+OK\r\n"
    server.call("ACL", "SETUSER", "default", "off")
    return server.url.replace("://", "://relay:password@")


async def do_everything(one: Claims) -> None:
    batch = [stored("a"), stored("b")]
    await one.about()
    assert Verdict() == await one.ask(batch, "journal-1")
    assert frozenset({0, 1}) == await one.claim(batch, "journal-2")
    heirs = [replace(event, origin="journal-1") for event in batch]
    assert frozenset() == await one.claim(heirs, "journal-3")
    await one.announce("relay-0", "journal-1")
    assert await one.announced("relay-0")
    await one.enlist("relay-0 relay-1")
    assert await one.members() == "relay-0 relay-1"
    await one.release("journal-3", 0)
    await one.close()


async def test_documented_rights_are_enough(server: RedisServer) -> None:
    await do_everything(claims(granted(server)))


async def test_documented_rights_are_enough_in_a_cluster(tmp_path: Path) -> None:
    (more,) = re.findall(r"for a cluster also `([^`]+)`", CONFIGURATION.read_text())
    bus = ("--cluster-port", str(free_port()))
    with redis_server(tmp_path, "--cluster-enabled", "yes", *bus) as server:
        server.call("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        await until(lambda: b"cluster_state:ok" in server.call("CLUSTER", "INFO"))
        url = granted(server, *more.split()).replace("redis:", "redis+cluster:")
        await do_everything(claims(url))


async def test_cluster(tmp_path: Path) -> None:
    """Each key has its node; the verdict is the same."""
    bus = ("--cluster-port", str(free_port()))
    with redis_server(tmp_path, "--cluster-enabled", "yes", *bus) as server:
        server.call("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
        await until(lambda: b"cluster_state:ok" in server.call("CLUSTER", "INFO"))
        one = claims(server.url.replace("redis:", "redis+cluster:"))
        batch = [stored(f"e-{n}") for n in range(20)]
        assert frozenset() == await one.claim(batch[:5], "journal-1")
        assert frozenset(range(5)) == await one.claim(batch, "journal-2")
        inherited = [replace(event, origin="journal-1") for event in batch]
        assert frozenset(range(5, 20)) == await one.claim(inherited, "journal-3")
        await one.ask([stored("new"), *batch[:2]], "journal-3")
        await one.release("journal-3", 0)
        assert frozenset() == await one.claim([stored("new")], "journal-4")
        assert frozenset({0, 1}) == await one.claim(batch[:2], "journal-4")
        await one.close()


async def test_sentinel(tmp_path: Path, server: RedisServer) -> None:
    """The master is the one that the sentinels name."""
    with sentinel_of(tmp_path, server.port) as sentinel:
        url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}/main"
        one = claims(url)
        assert frozenset() == await one.claim([stored("a")], "journal-1")
        assert b"journal-1" in server.call("GET", "relay:default:a")
        await one.close()


@contextmanager
def sentinel_of(directory: Path, port: int, more: str = "") -> Iterator[RedisServer]:
    """Run a sentinel that names the server at a port `main`."""
    (directory / "sentinel").mkdir()
    config = directory / "sentinel" / "sentinel.conf"
    config.write_text(f"sentinel monitor main 127.0.0.1 {port} 1\n{more}")
    sentinel = RedisServer(free_port(), directory / "sentinel")
    sentinel.start_sentinel(config)
    try:
        yield sentinel
    finally:
        sentinel.kill()


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster", "redis+sentinel"])
async def test_connection_that_a_box_has_forgotten_is_made_anew(
    scheme: str, tmp_path: Path, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No claim fails after a quiet time: what was quiet is asked before it is used."""
    monkeypatch.setattr(connections, "QUIET", 0.5)
    async with AsyncExitStack() as stack:
        if scheme == "redis+cluster":
            ports = [free_port() for _ in range(2)]
            bus = ("--cluster-port", str(ports[0]), "--cluster-announce-port", str(ports[1]))
            server = stack.enter_context(redis_server(tmp_path, "--cluster-enabled", "yes", *bus))
            server.call("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            await until(lambda: b"cluster_state:ok" in server.call("CLUSTER", "INFO"))
            box = Proxy(ports[1], server.port, forgets_after=1)
        else:
            box = Proxy(free_port(), server.port, forgets_after=1)
        await box.start()
        stack.push_async_callback(box.stop)
        url, sentinel_box = f"{scheme}://127.0.0.1:{box.port}", box
        if scheme == "redis+sentinel":
            sentinel = stack.enter_context(sentinel_of(tmp_path, box.port))
            sentinel_box = Proxy(free_port(), sentinel.port, forgets_after=1)
            await sentinel_box.start()
            stack.push_async_callback(sentinel_box.stop)
            url = f"{scheme}://127.0.0.1:{sentinel_box.port}/main"
        one = Claims(
            Settings(url=SecretStr(url), timeout=4), Retention(WINDOW), metrics := Metrics()
        )
        stack.push_async_callback(one.close)
        await one.ask([stored("a")], "journal-1")
        with capture_logs() as logs:
            for event_id in ("b", "c"):
                await asyncio.sleep(1.1)
                assert Verdict() == await one.ask([stored(event_id)], "journal-1")
        assert logs == []
        assert metrics.claims_up._value.get() == 1
        assert box.forgotten
        assert sentinel_box.forgotten


@pytest.mark.parametrize(
    "url",
    [
        f"{scheme}:pass-word@{rest}"
        for scheme, rest in (
            ("http://", "a"),
            ("redis:/", "a"),
            ("redis://", ""),
            ("redis+sentinel://", "a:1"),
            ("redis://", "a/b/c"),
            ("rediss+x://", "a"),
        )
    ],
)
def test_url_that_says_nothing_is_a_mistake(url: str) -> None:
    """And is not repeated: it may hold a password."""
    with pytest.raises(ValueError, match="must be redis://") as mistake:
        Settings(url=SecretStr(url))
    assert "pass-word" not in str(mistake.value)

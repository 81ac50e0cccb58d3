"""Faults one at a time: whatever breaks, answers stay fast and every event arrives once."""

import contextlib
import resource
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from relay.journal import file
from tests.conftest import Say
from tests.e2e.process import ForkedRelay, Relay, compared, until
from tests.kafka_server import Broker
from tests.oracle import (
    CUSTOMER_TEXT,
    ENCRYPT_KEY,
    TOKEN,
    TYPES,
    Event,
    Oracle,
    consume,
    make_event,
)
from tests.unit.test_logs import full_pipe

#: A port that nobody listens on.
NOWHERE = "127.0.0.1:1"
TOPICS = ("dead_letter", "helpdesk.notification", "helpdesk.ticket", "helpdesk.ticket_message")
MEGABYTE = 2**20
BACKLOG = 100_000


def only_200_and_fast(oracle: Oracle, say: Say) -> None:
    """Every delivery was answered 200 in less than a second."""
    slowest = max(oracle.latencies)
    say(
        f"{oracle.acknowledged} events: p99 {oracle.p99 * 1000:.0f} ms, max {slowest * 1000:.0f} ms"
    )
    assert set(oracle.answers) == {200}
    assert slowest < 1


def outcomes(journal: Path) -> list[tuple[str, str | None, str | None]]:
    """Read (event id, outcome, reason) of every row of a journal."""
    with closing(sqlite3.connect(journal)) as connection:
        sql = "SELECT event_id, outcome, reason FROM events ORDER BY seq"
        return connection.execute(sql).fetchall()


def copy_journal(source: Path, target: Path) -> None:
    """Take a consistent copy, as a volume's snapshot would."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(source)) as here, closing(sqlite3.connect(target)) as there:
        here.backup(there)


def restore_journal(source: Path, target: Path) -> None:
    """Put a copy in the journal's place."""
    for suffix in ("", "-wal", "-shm"):
        target.with_name(target.name + suffix).unlink(missing_ok=True)
    shutil.copy(source, target)


async def create_topics(bootstrap: str, topics: list[NewTopic]) -> None:
    """Create topics as an operator would."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics(topics)
    finally:
        await admin.close()


async def published(relay: Relay, count: int) -> bool:
    """Whether so many events are on Kafka."""
    return (await relay.metrics())['relay_settled_total{outcome="published"}'] >= count


async def test_missing_topics_hold_until_they_are_made(
    kafka: Broker, tmp_path: Path, topic_prefix: str
) -> None:
    """The log names them, once; nothing is lost meanwhile, and no restart is needed."""
    settings = {"KAFKA__CREATE_TOPICS": "false"}
    async with ForkedRelay(tmp_path, kafka.bootstrap, topic_prefix, **settings) as relay:
        oracle = Oracle(relay.url)
        await relay.serving()
        await oracle.send(100)
        said = await relay.logged("kafka_refuses")
        names = [f"{topic_prefix}{name}" for name in (*TOPICS, "other", "relay_journal")]
        assert all(name in said["error"] for name in names)
        assert (await relay.metrics())["relay_pending_events"] == 100
        async with compared(relay, oracle):
            await create_topics(kafka.bootstrap, [NewTopic(name, 1, 1) for name in names])
        assert len(relay.said("kafka_refuses")) == 1


async def test_deleted_topics_are_made_again(
    kafka: Broker, tmp_path: Path, topic_prefix: str
) -> None:
    """The topic of the offsets is taken away while relay runs: committing would hang for ever."""
    settings = {"KAFKA__TIMEOUT": "2s"}
    async with ForkedRelay(tmp_path, kafka.bootstrap, topic_prefix, **settings) as relay:
        oracle = Oracle(relay.url)
        await relay.serving()
        await oracle.send(100)
        await relay.drained()
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        await admin.start()
        await admin.delete_topics([f"{topic_prefix}relay_journal"])
        await admin.close()
        async with compared(relay, oracle):
            await oracle.send(100)


async def small_ticket_topic(bootstrap: str, prefix: str) -> None:
    """Make the tickets' topic so that it takes no record of more than 20,000 bytes."""
    limit = {"max.message.bytes": "20000"}
    topic = NewTopic(f"{prefix}helpdesk.ticket", 1, 1, topic_configs=limit)
    await create_topics(bootstrap, [topic])


async def test_record_beyond_the_limit_is_dead_lettered_alone(
    kafka: Broker, tmp_path: Path, topic_prefix: str
) -> None:
    """It goes without its value and with its size; all others of its batch are published."""
    await small_ticket_topic(kafka.bootstrap, topic_prefix)
    large = make_event("77", 2, padding=60_000)
    async with ForkedRelay(tmp_path, kafka.bootstrap, topic_prefix) as relay:
        oracle = Oracle(relay.url)
        await relay.serving()
        async with oracle.load():
            await until(lambda: published(relay, 100), 15, "events flow")
            assert await oracle.post(large) == 200
            await relay.logged("record_too_large")
        await relay.drained()
        records = await consume(kafka.bootstrap, topic_prefix)
    report = oracle.compare(one for one in records if one.event_id != large.event_id)
    assert not report.faults(), report.faults()
    [dead] = [one for one in records if one.event_id == large.event_id]
    assert dead.size is None
    assert dead.headers["relay_reason"] == "too_large"
    assert dead.headers["relay_size"] == str(len(large.body))


async def test_crash_does_not_turn_a_dead_letter_into_a_published_event(
    kafka: Broker, tmp_path: Path, topic_prefix: str
) -> None:
    """Killed between Kafka's commit and the journal's: its only copy must be kept as dead."""
    await small_ticket_topic(kafka.bootstrap, topic_prefix)
    large = make_event("77", 2, padding=60_000)
    async with ForkedRelay(tmp_path, kafka.bootstrap, topic_prefix) as relay:
        await relay.serving(KAFKA__BOOTSTRAP_SERVERS=NOWHERE)
        assert await Oracle(relay.url).post(large) == 200
        await relay.killed()
        relay.start(crash="transaction.after:1")
        assert await relay.ended() == -signal.SIGKILL
        await relay.serving()
        await relay.drained()
        assert await relay.stopped() == 0
    assert outcomes(relay.journal) == [(large.event_id, "dead_letter", "too_large")]


Heal = Callable[[Relay], None]


@pytest.fixture(params=["tmpfs", "rlimit"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Heal, Heal]]:
    """A directory on a disk of 3 MB, what makes it small for a process, and what heals it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if request.param == "rlimit":
        yield disk, lambda relay: _limit(relay, 3 * MEGABYTE), lambda relay: _limit(relay, -1)
        return
    if not _mount(disk, "size=3m"):
        pytest.skip("only root may mount a tmpfs")
    try:
        yield disk, lambda _: None, lambda _: _remount(disk)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def _mount(disk: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _remount(disk: Path) -> None:
    assert _mount(disk, "remount,size=64m")


def _limit(relay: Relay, size: int) -> None:
    _, hard = resource.prlimit(relay.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(relay.pid, resource.RLIMIT_FSIZE, (size, hard))


async def test_full_disk_is_503_and_heals(
    kafka: Broker,
    small_disk: tuple[Path, Heal, Heal],
    tmp_path: Path,
    topic_prefix: str,
    say: Say,
) -> None:
    """No 200 without a place on disk; with space again it goes on by itself."""
    disk, shrink, heal = small_disk
    settings = {"JOURNAL__PATH": str(disk / "journal.db")}
    async with ForkedRelay(tmp_path, kafka.bootstrap, topic_prefix, **settings) as relay:
        oracle = Oracle(relay.url, padding=3000)
        await relay.serving()
        shrink(relay)
        async with compared(relay, oracle), oracle.load():
            await until(lambda: answered(oracle, 503, 100), 30, "the disk is full")
            heal(relay)
            taken = oracle.acknowledged
            await until(lambda: answered(oracle, 200, taken + 300), 20, "the disk has healed")
            await relay.ready()
        say(f"answers: {dict(oracle.answers)}, p99 {oracle.p99 * 1000:.0f} ms")
        assert set(oracle.answers) == {200, 503}


async def answered(oracle: Oracle, status: int, count: int) -> bool:
    """Whether so many deliveries were answered like that."""
    return oracle.answers[status] >= count


async def test_second_process_on_one_journal_ends(
    kafka: Broker, tmp_path: Path, topic_prefix: str
) -> None:
    """It says whose journal it is and changes nothing; the first one goes on."""
    async with (
        ForkedRelay(tmp_path, kafka.bootstrap, topic_prefix) as first,
        ForkedRelay(tmp_path / "second", kafka.bootstrap, topic_prefix) as second,
    ):
        oracle = Oracle(first.url)
        await first.serving()
        async with compared(first, oracle):
            second.start(JOURNAL__PATH=str(first.journal))
            assert await second.ended() == 1
            await oracle.send(50)
    message = f"relay: {first.journal}: another relay process owns this journal"
    assert message in second.log
    assert "Traceback" not in second.log


@contextlib.asynccontextmanager
async def twins(
    kafka: Broker, directory: Path, prefix: str
) -> AsyncIterator[tuple[Relay, Relay, Oracle]]:
    """Two relays of one identity: the second runs on a copy of the first one's journal."""
    async with (
        ForkedRelay(directory / "first", kafka.bootstrap, prefix) as first,
        ForkedRelay(directory / "second", kafka.bootstrap, prefix) as second,
    ):
        oracle = Oracle(first.url)
        await first.serving()
        await oracle.send(50)
        await first.drained()
        copy_journal(first.journal, second.journal)
        await second.serving()
        await until(lambda: connected(second), 15, "the second one has Kafka")
        yield first, second, oracle


async def connected(relay: Relay) -> bool:
    """Whether its publisher is open."""
    return (await relay.metrics())["relay_kafka_up"] == 1


async def test_zombie_ends_by_itself(kafka: Broker, tmp_path: Path, topic_prefix: str) -> None:
    """Two of one identity: the older one cannot publish any more, and says why it ends."""
    async with twins(kafka, tmp_path, topic_prefix) as (first, second, oracle):
        assert await oracle.post(make_event("1", 1)) == 200
        assert await first.ended() == 1
        assert "relay: another process publishes under this journal's id" in first.log
        assert "Traceback" not in first.log
        assert outcomes(first.journal)[-1] == ("1-000001", None, None)
        assert await second.is_ready()


async def test_fenced_process_keeps_its_events_over_a_restart(
    kafka: Broker, tmp_path: Path, topic_prefix: str
) -> None:
    """What the other one published meanwhile under the same numbers settles none of its own."""
    async with twins(kafka, tmp_path, topic_prefix) as (first, second, oracle):
        assert await oracle.post(make_event("1", 1)) == 200
        assert await first.ended() == 1
        other = Oracle(second.url)
        assert await other.post(make_event("2", 1)) == 200
        await second.drained()
        assert await second.stopped() == 0
        await first.serving()
        await first.drained()
        ids = [one.event_id for one in await consume(kafka.bootstrap, topic_prefix)]
    assert sorted(one for one in ids if one in {"1-000001", "2-000001"}) == ["1-000001", "2-000001"]


async def test_sigterm_without_kafka_leaves_events_in_the_journal(
    kafka: Broker, tmp_path: Path, topic_prefix: str
) -> None:
    """It ends with 0 after the drain's time; the next process publishes what is there."""
    settings = {"DRAIN__TIMEOUT": "1s"}
    async with ForkedRelay(tmp_path, kafka.bootstrap, topic_prefix, **settings) as relay:
        oracle = Oracle(relay.url)
        await relay.serving(KAFKA__BOOTSTRAP_SERVERS=NOWHERE)
        await oracle.send(200)
        assert await relay.stopped(10) == 0
        assert relay.said("stopped")[-1]["left_in_journal"] == 200
        await relay.serving()
        async with compared(relay, oracle):
            await oracle.send(50)


async def test_sigterm_under_load_loses_nothing(
    kafka: Broker, tmp_path: Path, topic_prefix: str
) -> None:
    """Stopped and started five times while events come in: what got no 200 comes again."""
    async with ForkedRelay(tmp_path, kafka.bootstrap, topic_prefix) as relay:
        oracle = Oracle(relay.url)
        async with oracle.load():
            for _ in range(5):
                await relay.serving()
                before = oracle.answers[200]
                await until(lambda n=before: answered(oracle, 200, n + 50), 15, "events flow")  # type: ignore[misc]
                assert await relay.stopped() == 0
            await relay.serving()
        async with compared(relay, oracle):
            pass


async def test_second_sigterm_ends_at_once(
    kafka: Broker, tmp_path: Path, topic_prefix: str
) -> None:
    """An operator who does not want to wait for the drain says it twice."""
    settings = {"DRAIN__DELAY": "60s"}
    async with ForkedRelay(tmp_path, kafka.bootstrap, topic_prefix, **settings) as relay:
        oracle = Oracle(relay.url)
        await relay.serving()
        await oracle.send(50)
        relay.terminate()
        await relay.logged("draining")
        assert not await relay.is_ready()
        assert await relay.stopped(1) == 1
        async with compared(relay, oracle):
            await relay.serving()


@pytest.mark.parametrize(
    "crash", ["", "recovery.opened", "recovery.settled", "renew.before", "renew.after"]
)
async def test_journal_that_went_back_in_time_loses_nothing(
    kafka: Broker, tmp_path: Path, topic_prefix: str, crash: str
) -> None:
    """An older copy was put back: loudly another id, also when killed on the way there."""
    async with ForkedRelay(tmp_path, kafka.bootstrap, topic_prefix) as relay:
        oracle = Oracle(relay.url, repeat=0)
        await run_and_send(relay, oracle, 100)
        copy_journal(relay.journal, tmp_path / "snapshot.db")
        await run_and_send(relay, oracle, 100)
        restore_journal(tmp_path / "snapshot.db", relay.journal)
        await relay.serving(KAFKA__BOOTSTRAP_SERVERS=NOWHERE)
        await oracle.send(50)
        await relay.killed()
        if crash:
            relay.start(crash=f"{crash}:1")
            assert await relay.ended() == -signal.SIGKILL
        await relay.serving()
        async with compared(relay, oracle):
            await oracle.send(50)
    assert relay.said("journal_older_than_kafka") or crash == "recovery.opened"
    with closing(sqlite3.connect(relay.journal)) as renewed:
        new_id = renewed.execute("SELECT id FROM journal").fetchone()[0]
    assert new_id != relay.said("serving")[0]["journal"]


async def run_and_send(relay: Relay, oracle: Oracle, count: int) -> None:
    """Start, send, stop with everything published."""
    await relay.serving()
    await oracle.send(count)
    await relay.drained()
    assert await relay.stopped() == 0


def fill(journal: Path, events: list[Event]) -> None:
    """Write a backlog into a journal as if it had been accepted."""
    sql = (
        "INSERT INTO events (app, event_id, event_type, transport, received_at, body)"
        " VALUES ('default', ?, ?, 'webhook', ?, ?)"
    )
    now = time.time_ns() // 1_000_000
    with closing(file.connect(journal)) as connection:
        connection.execute("BEGIN")
        connection.executemany(sql, ((e.event_id, TYPES[0], now, e.body) for e in events))
        connection.execute("COMMIT")


@pytest.mark.timeout(180)
async def test_backlog_of_100_000_events_drains_in_order_and_in_little_memory(
    kafka: Broker, tmp_path: Path, topic_prefix: str, say: Say
) -> None:
    """The most it takes is what a process takes that drains three full batches."""
    backlog = [make_event(str(10**9 + n % 500), n // 500) for n in range(BACKLOG)]
    few, rest = backlog[:3000], backlog[3000:]
    async with Relay(tmp_path, kafka.bootstrap, topic_prefix) as relay:
        oracle = Oracle(relay.url)
        oracle.remember(backlog)
        file.prepare(relay.journal)
        fill(relay.journal, few)
        await relay.serving()
        await relay.drained()
        before = relay.resident("VmHWM")
        assert await relay.stopped() == 0
        fill(relay.journal, rest)
        started = time.monotonic()
        await relay.serving()
        ready = time.monotonic()
        await relay.drained(60)
        drained, highest = time.monotonic(), relay.resident("VmHWM")
        report = await oracle.compared(kafka.bootstrap, topic_prefix)
    say(
        f"ready after {ready - started:.2f} s, {len(rest) / (drained - ready):,.0f} events/s, "
        f"{before:.0f} MiB with few events, {highest:.0f} MiB with many"
    )
    assert not report.faults(), report.faults()
    assert highest - before < 15


async def test_log_of_hostile_requests_holds_nothing_of_them(
    kafka: Broker, tmp_path: Path, topic_prefix: str
) -> None:
    """Keys, tokens and customers' words stay out of the log, at its most talkative too."""
    settings = {"LOG__LEVEL": "debug"}
    texts = (
        CUSTOMER_TEXT,
        ENCRYPT_KEY,
        TOKEN,
        f'{{"encrypt":"{TOKEN}"}}',
        f'{{"token":"{TOKEN}"}}',
    )
    async with ForkedRelay(tmp_path, kafka.bootstrap, topic_prefix, **settings) as relay:
        await relay.serving()
        signed = dict.fromkeys(("X-Lark-Signature", "X-Lark-Request-Nonce"), TOKEN)
        async with aiohttp.ClientSession() as session:
            for text in texts:
                async with session.post(relay.url, data=text, headers=signed) as answer:
                    assert answer.status in {400, 401}
                    assert text not in await answer.text()
        assert await relay.stopped() == 0


async def test_log_that_nobody_reads_holds_up_nothing(
    tmp_path: Path, topic_prefix: str, monkeypatch: pytest.MonkeyPatch, say: Say
) -> None:
    """Standard error is a pipe that is full: events are taken, and SIGTERM ends the process."""
    settings = {"DRAIN__TIMEOUT": "1s"}
    async with ForkedRelay(tmp_path, NOWHERE, topic_prefix, **settings) as relay:
        oracle = Oracle(relay.url)
        with full_pipe() as (_, writing), monkeypatch.context() as patch:
            patch.setattr(relay, "_log_file", Path(f"/dev/fd/{writing}"))
            await relay.serving()
            await oracle.send(200)
            only_200_and_fast(oracle, say)
            assert await relay.stopped(10) == 0

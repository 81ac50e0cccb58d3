"""The faults a seed may draw. Each is one coroutine: break something, wait, mend it."""

import asyncio
import contextlib
import resource
import shutil
import signal
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from os import kill
from pathlib import Path
from random import Random

import aiohttp

from tests.e2e.process import Relay, until
from tests.lab.proxy import Line, Proxy
from tests.lab.world import RECOVERY, Replica, World

#: Seconds after which a sender takes a request for lost; who sleeps longer answers nobody.
FORGOTTEN = 3.5
#: Seconds a replica's clock may be wrong by, and days by which it may jump.
CLOCKS = (-3600, -240, -60, 60, 240, 3600)
JUMPS = (-30, -2, -1, 1, 2, 30)
DAY = 86_400
#: Bytes that a process may still write when its disk is nearly full.
ROOM = 65_536
#: Exit code of a relay whose disk fails.
DISK_FAILS = 74
#: Bytes of a stranger's body, and how many come in a second: 8 MB.
STRANGE, STRANGERS = 400_000, 20


class Busy(Exception):  # noqa: N818 - no error: another fault has the thing
    """What the fault wants to break is being broken already."""


@contextlib.contextmanager
def taken(world: World, *things: object) -> Iterator[None]:
    """Have things for oneself."""
    if world.busy & set(things):
        raise Busy
    world.busy |= set(things)
    try:
        yield
    finally:
        world.busy -= set(things)


@contextlib.contextmanager
def some_replica(world: World, rng: Random) -> Iterator[Replica]:
    """Take a random replica."""
    one = rng.choice(world.replicas)
    with taken(world, one.number):
        yield one


async def pause(rng: Random, shortest: float, longest: float) -> None:
    """Let the fault last."""
    await asyncio.sleep(rng.uniform(shortest, longest))


async def kill_replica(world: World, rng: Random) -> None:
    """SIGKILL, and a start on the same journal."""
    with some_replica(world, rng) as one:
        world.say(f"{one.name}: SIGKILL")
        await one.relay.killed()
        await pause(rng, 0, 1)
        await one.relay.serving()


async def freeze_replica(world: World, rng: Random) -> None:
    """SIGSTOP for a while."""
    with some_replica(world, rng) as one:
        world.say(f"{one.name}: SIGSTOP")
        kill(one.relay.pid, signal.SIGSTOP)
        await pause(rng, 0.3, 4)
        kill(one.relay.pid, signal.SIGCONT)


async def rolling_update(world: World, rng: Random) -> None:
    """SIGTERM and a new process on the same journal, one replica after the other."""
    with taken(world, *(one.number for one in world.replicas)):
        world.say("rolling update")
        for one in world.replicas:
            assert await one.relay.stopped(45) == 0, one.relay.log[-1500:]
            await one.relay.serving()


async def kill_broker(world: World, rng: Random) -> None:
    """SIGKILL a broker, leader of this or that, and start it again."""
    broker = rng.choice(world.ground.brokers)
    with taken(world, "brokers"):
        world.say(f"broker {world.ground.brokers.index(broker) + 1}: SIGKILL")
        broker.kill()
        await pause(rng, 0.2, 1.5)
        await asyncio.to_thread(broker.start)


async def freeze_broker(world: World, rng: Random) -> None:
    """A broker hangs."""
    broker = rng.choice(world.ground.brokers)
    with taken(world, "brokers"):
        world.say(f"broker {world.ground.brokers.index(broker) + 1}: SIGSTOP")
        broker.pause()
        try:
            await pause(rng, 0.5, 5)
        finally:
            broker.resume()


async def _break_line(world: World, rng: Random, name: str, *proxies: Proxy) -> None:
    line = rng.choice((Line.CUT, Line.DELAYED, Line.HALF_OPEN))
    world.say(f"{name}: {line}")
    for proxy in proxies:
        proxy.set(line, rng.uniform(0.01, 0.4) if line is Line.DELAYED else 0)
    await pause(rng, 0.5, 5)
    for proxy in proxies:
        proxy.set(Line.OPEN)


async def break_line_to_kafka(world: World, rng: Random) -> None:
    """Between one replica and all brokers, or one of them."""
    one = rng.choice(world.replicas)
    with taken(world, ("kafka", one.number)):
        proxies = one.kafka if rng.random() < 0.5 else [rng.choice(one.kafka)]
        await _break_line(world, rng, f"{one.name} - kafka", *proxies)


async def break_line_to_claims(world: World, rng: Random) -> None:
    """Between one replica and the claims store."""
    one = rng.choice(world.replicas)
    with taken(world, ("claims", one.number)):
        await _break_line(world, rng, f"{one.name} - claims", one.claims)


async def freeze_claims(world: World, rng: Random) -> None:
    """The claims store hangs."""
    with taken(world, "claims"):
        world.say("claims store: SIGSTOP")
        world.redis.hang()
        await pause(rng, 0.5, 3)
        world.redis.go_on()


async def kill_claims(world: World, rng: Random) -> None:
    """The claims store dies; what it has said is on its disk."""
    with taken(world, "claims"):
        world.say("claims store: SIGKILL")
        world.redis.kill()
        await pause(rng, 0.2, 2)
        await asyncio.to_thread(world.redis.start)


async def empty_claims(world: World, rng: Random) -> None:
    """The documented end of the promise: what is repeated to another replica may come twice."""
    with taken(world, "claims"):
        world.say("claims store: emptied")
        world.may_repeat = True
        await asyncio.to_thread(world.redis.call, "FLUSHALL")


async def fill_disk(world: World, rng: Random) -> None:
    """One replica can write no further."""
    with some_replica(world, rng) as one:
        world.say(f"{one.name}: disk full")
        soft, hard = resource.prlimit(one.relay.pid, resource.RLIMIT_FSIZE)
        room = len(one.relay.log.encode()) + ROOM
        resource.prlimit(one.relay.pid, resource.RLIMIT_FSIZE, (room, hard))
        await pause(rng, 0.5, 3)
        resource.prlimit(one.relay.pid, resource.RLIMIT_FSIZE, (soft, hard))


async def wrong_clock(world: World, rng: Random) -> None:
    """One replica runs with a clock that is wrong, and then with the right one."""
    with some_replica(world, rng) as one:
        ahead = rng.choice(CLOCKS)
        world.say(f"{one.name}: its clock is {ahead:+} s wrong")
        await one.relay.killed()
        await one.relay.serving(clock=ahead)
        await pause(rng, 1, 3)
        await one.relay.killed()
        await one.relay.serving()


async def clock_jumps(world: World, rng: Random) -> None:
    """A running replica's clock jumps by days, and back; then it runs with the right one."""
    with some_replica(world, rng) as one:
        await one.relay.killed()
        await one.relay.serving(clock=0)
        days = rng.choice(JUMPS)
        world.say(f"{one.name}: its clock jumps by {days:+} days")
        one.relay.set_clock(days * DAY)
        await pause(rng, 0.3, 2)
        one.relay.set_clock(0)
        await pause(rng, 0.3, 1)
        await one.relay.killed()
        await one.relay.serving()


async def start_on_a_full_disk(world: World, rng: Random) -> None:
    """A replica is started where nothing can be written, and then there is room."""
    with some_replica(world, rng) as one:
        world.say(f"{one.name}: started on a full disk")
        await one.relay.killed()
        one.relay.start(file_size=str(len(one.relay.log.encode()) + ROOM))
        await pause(rng, 1, 3)
        if not one.relay.running:
            # A limit of a file's size is told apart from a full disk: it may end, with a sentence.
            assert await one.relay.ended() == DISK_FAILS, one.relay.log[-1500:]
            await one.relay.serving()
            return
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(one.relay.pid, resource.RLIMIT_FSIZE, unlimited)
        await one.relay.ready(RECOVERY)


async def pin_the_log(world: World, rng: Random) -> None:
    """Somebody reads a journal and does not end: its log cannot be taken back into the file."""
    with some_replica(world, rng) as one, closing(sqlite3.connect(one.relay.journal)) as reader:
        world.say(f"{one.name}: a reader pins the log")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM journal").fetchone()
        await pause(rng, 1, 5)


async def lock_journal(world: World, rng: Random) -> None:
    """Somebody else's shell holds the journal's write lock."""
    with some_replica(world, rng) as one:
        shell = sqlite3.connect(
            one.relay.journal, timeout=5, isolation_level=None, check_same_thread=False
        )
        with closing(shell):
            world.say(f"{one.name}: somebody has its write lock")
            with contextlib.suppress(sqlite3.OperationalError):
                await asyncio.to_thread(shell.execute, "BEGIN IMMEDIATE")
            await pause(rng, 0.3, 3)


async def flood(world: World, rng: Random) -> None:
    """Strangers send bodies that cost a parser most, 8 MB a second, to one replica."""
    with some_replica(world, rng) as one:
        body = rng.choice(
            (b"[" + b"0e0," * (STRANGE // 4) + b"NaN]", b"[" * STRANGE, b"9" * STRANGE)
        )
        world.say(f"{one.name}: a flood of unsigned bodies")
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
            for _ in range(round(STRANGERS * rng.uniform(0.5, 3))):
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.post(one.url, data=body) as answer:
                        assert 400 <= answer.status < 600, answer.status
                await asyncio.sleep(1 / STRANGERS)


async def restore_journal(world: World, rng: Random) -> None:
    """The volume is put back to what it was a while ago, when all later events are on Kafka."""
    with some_replica(world, rng) as one:
        snapshot = world.directory / f"snapshot-{one.number}.db"
        _copy(one.relay.journal, snapshot)
        await pause(rng, 0.5, 3)
        one.in_service = False
        assert await one.relay.stopped(45) == 0, one.relay.log[-1500:]
        if one.relay.said("stopped")[-1]["left_in_journal"] == 0:
            world.say(f"{one.name}: journal restored from an older copy")
            for suffix in ("", "-wal", "-shm"):
                one.relay.journal.with_name(one.relay.journal.name + suffix).unlink(missing_ok=True)
            shutil.copy(snapshot, one.relay.journal)
        snapshot.unlink()
        await one.relay.serving()
        one.in_service = True


async def zombie(world: World, rng: Random) -> None:
    """The first replica sleeps, a copy of its journal runs elsewhere, and then it wakes up."""
    one = world.replicas[0]
    with taken(world, one.number):
        asleep, _ = await _replaced(world, one)
        one.in_service = True
        kill(asleep.pid, signal.SIGCONT)
        world.say(f"{one.name}: the replaced one wakes up")
        await pause(rng, 1, 3)


async def zombie_while_kafka_hangs(world: World, rng: Random) -> None:
    """It wakes up, answers, hears nothing of Kafka, is killed, and is started again alone."""
    one = world.replicas[0]
    with taken(world, one.number, ("kafka", one.number)):
        asleep, successor = await _replaced(world, one)
        world.say(f"{one.name}: Kafka hangs, the replaced one wakes up and answers")
        for proxy in one.kafka:
            proxy.set(Line.HALF_OPEN)
        kill(asleep.pid, signal.SIGCONT)
        one.relay = asleep
        one.in_service = True
        await pause(rng, 0.5, 3)
        one.in_service = False
        world.retired.remove(asleep)
        world.retired.append(successor)
        await asleep.killed()
        for proxy in one.kafka:
            proxy.set(Line.OPEN)
        world.say(f"{one.name}: the replaced one is started again, alone")
        assert await successor.stopped(45) == 0, successor.log[-1500:]
        await asleep.serving()
        one.in_service = True


async def _replaced(world: World, one: Replica) -> tuple[Relay, Relay]:
    """Put a replica to sleep and a copy into its place; give both. No events come to either."""
    world.say(f"{one.name}: sleeps, and is replaced by a copy")
    asleep = one.relay
    await _has_kafka(asleep)
    kill(asleep.pid, signal.SIGSTOP)
    # What reaches it now it will find when it wakes up; the senders have gone elsewhere then.
    await asyncio.sleep(0.5)
    one.in_service = False
    await asyncio.sleep(FORGOTTEN)
    successor = _successor(world, one)
    _copy(asleep.journal, successor.journal)
    one.relay = successor
    world.retired.append(asleep)
    await successor.serving()
    # It runs: from here on the name is its own, whatever the other one does.
    await _has_kafka(successor)
    await successor.drained()
    return asleep, successor


async def _has_kafka(relay: Relay) -> None:
    """Wait for it: a broker may be killed twice meanwhile."""
    try:
        await until(lambda: _connected(relay), RECOVERY, "it has Kafka")
    except AssertionError as error:
        error.add_note(f"its log: {relay.log[-3000:]}")
        raise


async def _connected(relay: Relay) -> bool:
    return (await relay.metrics())["relay_kafka_up"] == 1


def _successor(world: World, one: Replica) -> Relay:
    directory = world.directory / f"relay-{one.number}-{len(world.retired) + 1}"
    return world.make_relay(one.number, directory)


def _copy(source: Path, target: Path) -> None:
    """Take a consistent copy, as a snapshot of the volume would be."""
    with closing(sqlite3.connect(source)) as here, closing(sqlite3.connect(target)) as there:
        here.backup(there)


Fault = Callable[[World, Random], Awaitable[None]]

#: How often each is drawn.
FAULTS: dict[Fault, int] = {
    kill_replica: 6,
    freeze_replica: 4,
    rolling_update: 1,
    kill_broker: 1,
    freeze_broker: 2,
    break_line_to_kafka: 4,
    break_line_to_claims: 4,
    freeze_claims: 2,
    kill_claims: 2,
    empty_claims: 0,
    fill_disk: 2,
    wrong_clock: 2,
    clock_jumps: 2,
    start_on_a_full_disk: 1,
    pin_the_log: 2,
    lock_journal: 2,
    flood: 2,
    restore_journal: 1,
    zombie: 1,
    zombie_while_kafka_hangs: 1,
}

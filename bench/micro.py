"""What each step of the relay costs; a process of its own: `python -m bench.micro BOOTSTRAP DIR`.

Calls the relay's own modules, one step after the other, with nothing beside them; prints one JSON
object. CPU is of all threads.
"""

import asyncio
import contextlib
import json
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TypeVar

import uvloop
from aiokafka.producer.message_accumulator import BatchBuilder

from bench.events import ENCRYPT_KEY, VERIFICATION_TOKEN, Signer, event_id, payload
from relay.contract.normalize import Router, normalize
from relay.egress.dispatcher import settled_as
from relay.egress.kafka.packing import BATCH_BYTES
from relay.egress.publisher import ExactlyOncePublisher
from relay.errors import KafkaUnavailableError
from relay.events import Callback, Outcome, RawCallback, Record, Transport
from relay.ingress import authentic
from relay.journal.journal import Journal
from relay.observe.metrics import Metrics
from relay.settings import Kafka

_EVENTS = 5_000
_REPEATS = 5
_COMMIT = 64
_BATCH = 500
_ATTEMPTS = 10
#: Of 500 records at once, those that go to one of 12 partitions.
_PARTITIONS_SHARE = 40
#: Kafka's names and numbers of them.
_COMPRESSIONS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}

Costs = dict[str, float]
T = TypeVar("T")


async def measure(bootstrap: str, directory: Path) -> Costs:
    """Measure all steps; microseconds for each event."""
    raws = _deliveries()
    credentials = authentic.Credentials(
        keys=(authentic.EncryptKey(ENCRYPT_KEY),),
        tokens=(VERIFICATION_TOKEN.encode(),),
    )
    callbacks = [_opened(raw, credentials) for raw in raws]
    costs = {"envelope_us": _cost(lambda: [authentic.open(raw, credentials) for raw in raws])}
    router = Router("feishu.", {})
    journal = Journal(
        directory / "micro.db", Metrics(), max_bytes=2**33, max_waiting=4096, window=86_400
    )
    costs |= await _commits(journal, callbacks)
    events = await journal.pending(_EVENTS, 2**30)
    records = [normalize(event, router) for event in events]
    costs["normalize_us"] = _cost(lambda: [normalize(event, router) for event in events])
    costs["envelope_and_normalize_us"] = costs["envelope_us"] + costs["normalize_us"]
    costs |= _packs(records)
    costs |= await _publishes(bootstrap, router, journal.id, records)
    by_seq = {event.seq: record for event, record in zip(events, records, strict=True)}
    costs |= await _settles(journal, by_seq)
    await journal.close()
    return costs


def _deliveries() -> list[RawCallback]:
    """Make requests as the webhook hands them on."""
    signer, run = Signer(), secrets.token_hex(8)
    now_ms = time.time_ns() // 1_000_000
    made = []
    for index in range(_EVENTS):
        body = payload(index, run, now_ms)
        request = signer.request(body, event_id(index, run), now_ms // 1000)
        head, _, content = request.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        made.append(
            RawCallback(
                app="default",
                transport=Transport.WEBHOOK,
                body=content,
                received_at=now_ms,
                timestamp=headers["X-Lark-Request-Timestamp"],
                nonce=headers["X-Lark-Request-Nonce"],
                signature=headers["X-Lark-Signature"],
            )
        )
    return made


def _opened(raw: RawCallback, credentials: authentic.Credentials) -> Callback:
    callback = authentic.open(raw, credentials)
    assert isinstance(callback, Callback)
    return callback


def _cost(work: Callable[[], object]) -> float:
    """Give the median CPU time of some repeats, for each event."""
    taken = []
    for _ in range(_REPEATS):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return 1e6 * median(taken) / _EVENTS


@contextmanager
def _timed(costs: Costs, name: str, events: int) -> Iterator[None]:
    """Note CPU and time of what runs in the context."""
    cpu, wall = time.process_time(), time.perf_counter()
    yield
    costs[f"{name}_us"] = 1e6 * (time.process_time() - cpu) / events
    costs[f"{name}_wall_us"] = 1e6 * (time.perf_counter() - wall) / events


async def _commits(journal: Journal, callbacks: Sequence[Callback]) -> Costs:
    costs: Costs = {}
    with _timed(costs, "commit", len(callbacks)):
        for group in _slices(callbacks, _COMMIT):
            outcomes = await asyncio.gather(*(journal.add(callback) for callback in group))
            assert set(outcomes) == {Outcome.ACCEPTED}
    return costs


def _packs(records: Sequence[Record]) -> Costs:
    """Pack records for one partition, in each of the ways that Kafka knows: CPU and bytes."""
    costs: Costs = {}
    for name, code in _COMPRESSIONS.items():
        sizes: list[int] = []

        def work(code: int = code, sizes: list[int] = sizes) -> None:
            sizes[:] = [len(_packed(batch, code)) for batch in _slices(records, _PARTITIONS_SHARE)]

        costs[f"pack_{name}_us"] = _cost(work)
        costs[f"pack_{name}_bytes"] = sum(sizes) / len(records)
    return costs


def _packed(records: Sequence[Record], compression: int) -> bytes:
    builder = BatchBuilder(BATCH_BYTES, compression, is_transactional=True)
    for record in records:
        assert builder.append(
            timestamp=record.timestamp, key=record.key, value=record.value, headers=record.headers
        )
    return bytes(builder._build())  # noqa: SLF001 - what goes to the broker


async def _publishes(
    bootstrap: str, router: Router, journal_id: str, records: Sequence[Record]
) -> Costs:
    publisher = ExactlyOncePublisher(Kafka(bootstrap_servers=bootstrap), router.topics)
    await _open(publisher, journal_id)
    await publisher.publish(_stream(records[:_BATCH]), 1)
    costs: Costs = {}
    with _timed(costs, "publish", len(records)):
        for number, batch in enumerate(_slices(records, _BATCH), start=2):
            await publisher.publish(_stream(batch), number)
    await publisher.close()
    return costs


async def _stream(records: Sequence[Record]) -> AsyncIterator[Record]:
    """Give the records in the form that the dispatcher gives them."""
    for record in records:
        yield record


async def _open(publisher: ExactlyOncePublisher, journal_id: str) -> None:
    """Connect; a Kafka that has just started has no coordinators yet."""
    for _ in range(_ATTEMPTS):
        with contextlib.suppress(KafkaUnavailableError):
            await publisher.open(journal_id)
            return
        await publisher.close()
        await asyncio.sleep(1)
    await publisher.open(journal_id)


async def _settles(journal: Journal, records: Mapping[int, Record]) -> Costs:
    """Read pending events back and settle them, batch after batch, as the dispatcher does."""
    costs: Costs = {}
    with _timed(costs, "settle", len(records)):
        while batch := await journal.pending(_BATCH, 2**30):
            settlements = [settled_as(event, records[event.seq]) for event in batch]
            landings = [(0, event.seq) for event in batch]
            await journal.settle(settlements, batch[-1].received_at, None, landings)
    return costs


def _slices(items: Sequence[T], size: int) -> list[Sequence[T]]:
    return [items[first : first + size] for first in range(0, len(items), size)]


if __name__ == "__main__":
    print(json.dumps(uvloop.run(measure(sys.argv[1], Path(sys.argv[2])))))

"""The oracle: plays Feishu against a relay, remembers every 200, and then asks Kafka.

It shares no code with relay: what it encrypts, signs and expects is written down here once more.
"""

import asyncio
import contextlib
import hashlib
import itertools
import math
import random
import time
from base64 import b64encode
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

import aiohttp
import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

ENCRYPT_KEY = "oracle-encrypt-key"
TOKEN = "oracle-verification-token"
#: Stands in every message; it must be on Kafka and nowhere else.
CUSTOMER_TEXT = "打印机坏了 my-printer-is-on-fire"

#: Seconds after which Feishu takes a delivery for failed.
ANSWER_LIMIT = 3.0
#: Seconds until a delivery that was not answered 200 is sent again.
RETRY_AFTER = 0.1
#: Seconds until a committed transaction must show.
SHOWN_WITHIN = 15.0
#: Recent events of a ticket that may be sent once more.
RECENT = 20
#: The status of a request that got no answer.
NO_ANSWER = 0

TYPES = ("helpdesk.ticket.updated_v1", "helpdesk.ticket_message.created_v1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event before encryption."""

    event_id: str
    ticket_id: str
    body: bytes


def make_event(ticket_id: str, number: int, padding: int = 0) -> Event:
    """Invent a ticket's event: an update or a message, `padding` bytes larger than needed."""
    event_id = f"{ticket_id}-{number:06d}"
    event_type = TYPES[number % len(TYPES)]
    ticket = {"ticket_id": ticket_id, "status": 2, "stage": 1, "padding": "x" * padding}
    if event_type == TYPES[0]:
        event: object = {"object": ticket, "old_object": {"stage": 2}}
    else:
        event = {"ticket": ticket, "text": f"{CUSTOMER_TEXT} {number}", "position": str(number)}
    header = {
        "event_id": event_id,
        "event_type": event_type,
        "token": TOKEN,
        "create_time": str(time.time_ns() // 1_000_000),
        "tenant_key": "tenant",
        "app_id": "cli_oracle",
    }
    body = orjson.dumps({"schema": "2.0", "header": header, "event": event})
    return Event(event_id=event_id, ticket_id=ticket_id, body=body)


def signed_request(event: Event, rng: random.Random) -> tuple[bytes, dict[str, str]]:
    """Encrypt and sign as Feishu does: each delivery anew, so that two never look alike."""
    iv, padder = rng.randbytes(16), PKCS7(128).padder()
    key = hashlib.sha256(ENCRYPT_KEY.encode()).digest()
    encryptor = Cipher(algorithms.AES256(key), modes.CBC(iv)).encryptor()
    padded = padder.update(event.body) + padder.finalize()
    cipher = iv + encryptor.update(padded) + encryptor.finalize()
    body = orjson.dumps({"encrypt": b64encode(cipher).decode()})
    timestamp, nonce = str(int(time.time())), str(rng.getrandbits(32))
    signature = hashlib.sha256((timestamp + nonce + ENCRYPT_KEY).encode() + body).hexdigest()
    return body, {
        "Content-Type": "application/json",
        "X-Lark-Request-Timestamp": timestamp,
        "X-Lark-Request-Nonce": nonce,
        "X-Lark-Signature": signature,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One record as a consumer that reads committed has seen it."""

    topic: str
    partition: int
    offset: int
    key: str
    size: int | None
    headers: dict[str, str]

    @property
    def event_id(self) -> str:
        """The event's id; a dead letter has it as its key."""
        return self.headers.get("ce_id", self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What the comparison found; every list is empty when the promise was kept."""

    acknowledged: int
    seen: int
    missing: Sequence[str]
    twice: Sequence[str]
    unknown: Sequence[str]
    disordered: Sequence[str]
    dead: Sequence[str]

    def faults(self, *, may_repeat: bool = False) -> str:
        """Say what is wrong, a line for each kind; empty when nothing is."""
        found = {
            "acknowledged, but not on Kafka": self.missing,
            "on Kafka more than once": () if may_repeat else self.twice,
            "on Kafka, but never sent": self.unknown,
            "out of order in their ticket": self.disordered,
            "dead-lettered": self.dead,
        }
        lines = [
            f"{len(ids)} of {self.acknowledged} {kind}: {', '.join(ids[:8])}"
            for kind, ids in found.items()
            if ids
        ]
        return "\n".join(lines)

    def __str__(self) -> str:
        return f"{self.acknowledged} acknowledged, {self.seen} on Kafka, {len(self.twice)} twice"


@dataclass(slots=True)
class _Ticket:
    """One ticket: its events are sent strictly one after another."""

    ticket_id: str
    acknowledged: list[str] = field(default_factory=list)
    recent: deque[Event] = field(default_factory=lambda: deque(maxlen=RECENT))
    sent: int = 0


class Oracle:
    """A sender with a memory. One for each relay under test, over all of its restarts."""

    def __init__(
        self,
        url: str,
        *,
        rate: float = 300,
        tickets: int = 30,
        repeat: float = 0.1,
        padding: int = 0,
        seed: int = 1,
    ) -> None:
        """`rate` is new events per second in all; `repeat` the share that is sent once more."""
        self.url = url
        self._rng = random.Random(seed)
        self._period = tickets / rate if rate else 0.0
        self._repeat = repeat
        self._padding = padding
        self._tickets = [
            _Ticket(f"{self._rng.getrandbits(40):013d}{n:04d}") for n in range(tickets)
        ]
        #: Sent and not answered 200: may be on disk or not.
        self.in_doubt: set[str] = set()
        self.answers: Counter[int] = Counter()
        #: Seconds of each answer, whatever it was.
        self.latencies: list[float] = []
        #: Remaining events of `send`; infinite under `load`.
        self._left = 0.0

    @property
    def acknowledged(self) -> int:
        """How many events were answered 200."""
        return sum(len(ticket.acknowledged) for ticket in self._tickets)

    @property
    def p99(self) -> float:
        """Seconds within which 99 % of the answers came."""
        ordered = sorted(self.latencies)
        return ordered[int(len(ordered) * 0.99)] if ordered else 0.0

    @contextlib.asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Send for as long as the block runs; each event begun is answered 200 at its end."""
        self._left = math.inf
        sending = asyncio.create_task(self._send())
        try:
            yield
        except BaseException:
            sending.cancel()
            raise
        self._left = 0
        await sending

    async def send(self, count: int, *, give_up: float | None = None) -> None:
        """Send so many new events; until each is answered 200, or for `give_up` seconds."""
        self._left = count
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(give_up):
                await self._send()

    def remember(self, events: Iterable[Event]) -> None:
        """Take events for acknowledged that somebody else has put into the journal."""
        tickets: defaultdict[str, list[str]] = defaultdict(list)
        for event in events:
            tickets[event.ticket_id].append(event.event_id)
        self._tickets += [_Ticket(name, acknowledged=ids) for name, ids in tickets.items()]

    async def post(self, event: Event) -> int:
        """Deliver one event once, outside of the account; give the status of the answer."""
        async with self._session() as session:
            return await self._deliver(session, event)

    async def repeat(self, url: str, count: int) -> None:
        """Deliver acknowledged events once more, to another replica."""
        events = [event for ticket in self._tickets for event in ticket.recent]
        async with self._session() as session:
            for event in self._rng.sample(events, min(count, len(events))):
                await self._deliver(session, event, url)

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=ANSWER_LIMIT),
            connector=aiohttp.TCPConnector(limit=2 * len(self._tickets)),
        )

    async def _send(self) -> None:
        async with self._session() as session, asyncio.TaskGroup() as lanes:
            for ticket in self._tickets:
                lanes.create_task(self._lane(session, ticket))

    async def _lane(self, session: aiohttp.ClientSession, ticket: _Ticket) -> None:
        due = time.monotonic() + self._rng.random() * self._period
        while True:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if self._left < 1:
                return
            self._left -= 1
            due = max(due + self._period, time.monotonic() - self._period)
            await self._new_event(session, ticket)
            if self._rng.random() < self._repeat:
                await self._until_taken(session, self._rng.choice(ticket.recent), 1)

    async def _new_event(self, session: aiohttp.ClientSession, ticket: _Ticket) -> None:
        ticket.sent += 1
        event = make_event(ticket.ticket_id, ticket.sent, self._padding)
        self.in_doubt.add(event.event_id)
        # Now and then two deliveries at once: Feishu does not wait for its own retry.
        at_once = 2 if self._rng.random() < self._repeat / 2 else 1
        await self._until_taken(session, event, at_once)
        self.in_doubt.remove(event.event_id)
        ticket.acknowledged.append(event.event_id)
        ticket.recent.append(event)

    async def _until_taken(
        self, session: aiohttp.ClientSession, event: Event, at_once: int
    ) -> None:
        while True:
            deliveries = [self._deliver(session, event) for _ in range(at_once)]
            if HTTPStatus.OK in await asyncio.gather(*deliveries):
                return
            await asyncio.sleep(RETRY_AFTER)

    async def _deliver(
        self, session: aiohttp.ClientSession, event: Event, url: str | None = None
    ) -> int:
        body, headers = signed_request(event, self._rng)
        started, status = time.perf_counter(), NO_ANSWER
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, ConnectionError):
            async with session.post(url or self.url, data=body, headers=headers) as response:
                status = response.status
                await response.read()
        if status != NO_ANSWER:
            self.latencies.append(time.perf_counter() - started)
        self.answers[status] += 1
        return status

    async def compared(self, bootstrap: str, prefix: str) -> Report:
        """Hold what was acknowledged against what a consumer that reads committed sees.

        A broker shows a transaction a moment after it has answered the commit: what is missing is
        waited for.
        """
        deadline = time.monotonic() + SHOWN_WITHIN
        while True:
            report = self.compare(await consume(bootstrap, prefix, timeout=60))
            if not report.missing or time.monotonic() > deadline:
                return report
            await asyncio.sleep(RETRY_AFTER)

    def compare(self, seen: Iterable[Seen]) -> Report:
        """Hold what was acknowledged against what is on Kafka."""
        records = list(seen)
        times = Counter(record.event_id for record in records)
        acknowledged = {one for ticket in self._tickets for one in ticket.acknowledged}
        return Report(
            acknowledged=len(acknowledged),
            seen=len(records),
            missing=sorted(acknowledged - times.keys()),
            twice=sorted(one for one, count in times.items() if count > 1),
            unknown=sorted(times.keys() - acknowledged - self.in_doubt),
            disordered=_disordered(records),
            dead=sorted(r.event_id for r in records if "relay_reason" in r.headers),
        )


def _disordered(records: Iterable[Seen]) -> list[str]:
    """Events that come after a later one of their ticket, where a topic holds both.

    The number at the end of an id is its place in the ticket. A repeat counts where it came first.
    """
    places: defaultdict[tuple[str, str, int], dict[str, None]] = defaultdict(dict)
    for one in sorted(records, key=lambda seen: (seen.topic, seen.partition, seen.offset)):
        places[one.topic, one.key, one.partition].setdefault(one.event_id)
    wrong = [
        later
        for ids in places.values()
        for earlier, later in itertools.pairwise(ids)
        if earlier > later
    ]
    partitions = Counter((topic, key) for topic, key, _ in places)
    scattered = [f"ticket {key} in {topic}" for (topic, key), n in partitions.items() if n > 1]
    return sorted(wrong) + scattered


async def consume(bootstrap: str, prefix: str, *, timeout: float = 30) -> list[Seen]:  # noqa: ASYNC109 - a bound for all of it
    """Read every topic of a prefix up to its end, as a consumer that reads committed."""
    places = await _places(bootstrap, prefix)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level="read_committed", enable_auto_commit=False
    )
    await consumer.start()
    try:
        async with asyncio.timeout(timeout):
            return await _read_all(consumer, places)
    finally:
        await consumer.stop()


async def _places(bootstrap: str, prefix: str) -> list[TopicPartition]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        names = [name for name in await admin.list_topics() if name.startswith(prefix)]
        topics = await admin.describe_topics(names)
    finally:
        await admin.close()
    return [TopicPartition(t["topic"], p["partition"]) for t in topics for p in t["partitions"]]


async def _read_all(consumer: AIOKafkaConsumer, places: Sequence[TopicPartition]) -> list[Seen]:
    consumer.assign(places)
    await consumer.seek_to_beginning(*places)
    left = {place: end for place, end in (await consumer.end_offsets(places)).items() if end > 0}
    seen: list[Seen] = []
    while left:
        for records in (await consumer.getmany(timeout_ms=200)).values():
            seen += [_seen(record) for record in records]
        for place in list(left):
            if await consumer.position(place) >= left[place]:
                del left[place]
    return seen


def _seen(record: object) -> Seen:
    topic, partition, offset, key, value, headers = (
        getattr(record, name)
        for name in ("topic", "partition", "offset", "key", "value", "headers")
    )
    return Seen(
        topic=topic,
        partition=partition,
        offset=offset,
        key=key.decode(),
        size=None if value is None else len(value),
        headers={name: text.decode() for name, text in headers},
    )

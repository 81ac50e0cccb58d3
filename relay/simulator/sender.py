"""Plays Feishu's webhook side: invented events, encrypted and signed, with repeats and forgeries.

It knows what each request must be answered, so whoever runs it learns whether a relay keeps its
rules. Everything random comes from one seed; only the clock is real.
"""

import asyncio
import hashlib
import heapq
import itertools
import random
import time
from base64 import b64encode
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from io import BytesIO

import aiohttp
import orjson
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from relay.errors import RelayError
from relay.simulator.feishu import LADDER, SmallFeishu
from relay.simulator.gateway import ANSWER_LIMIT
from relay.simulator.samples import Helpdesk, Sample

#: The status of a request that got no answer; how many requests are under way at once.
NO_ANSWER, _CONCURRENCY = 0, 32
#: Seconds beyond relay's dedupe window of a day; latencies that a summary keeps.
_STALE, _LATENCIES_KEPT = 3 * 86400, 100_000


class Kind(StrEnum):
    """What a request is; all but the first two are hostile and must be refused."""

    EVENT = "event"
    REPEAT = "repeat"
    BAD_SIGNATURE = "bad signature"
    NO_SIGNATURE = "no signature"
    STALE = "stale timestamp"
    PLAIN_BODY = "plain body"
    TRUNCATED = "cut ciphertext"
    UNASKED_CIPHER = "unasked cipher"
    WRONG_TOKEN = "wrong token"  # noqa: S105 - a kind's name
    NOT_JSON = "not JSON"
    EMPTY = "empty object"
    TOO_LARGE = "oversized body"

    @property
    def hostile(self) -> bool:
        """Whether the request must be refused."""
        return self not in (Kind.EVENT, Kind.REPEAT)

    def expected(self, *, long_connection: bool) -> int:
        """Give the status, or the acknowledgement's code, that it must get."""
        if long_connection and self.hostile:
            return HTTPStatus.INTERNAL_SERVER_ERROR
        return EXPECTED[self]


_HOSTILE_TO_ALL = (Kind.NOT_JSON, Kind.EMPTY, Kind.TOO_LARGE)
_HOSTILE_TO_KEY = (
    Kind.BAD_SIGNATURE,
    Kind.NO_SIGNATURE,
    Kind.STALE,
    Kind.PLAIN_BODY,
    Kind.TRUNCATED,
)
#: What the design's answer table demands.
EXPECTED = {
    Kind.EVENT: HTTPStatus.OK,
    Kind.REPEAT: HTTPStatus.OK,
    Kind.BAD_SIGNATURE: HTTPStatus.UNAUTHORIZED,
    Kind.NO_SIGNATURE: HTTPStatus.UNAUTHORIZED,
    Kind.STALE: HTTPStatus.UNAUTHORIZED,
    Kind.PLAIN_BODY: HTTPStatus.UNAUTHORIZED,
    Kind.TRUNCATED: HTTPStatus.BAD_REQUEST,
    Kind.UNASKED_CIPHER: HTTPStatus.BAD_REQUEST,
    Kind.WRONG_TOKEN: HTTPStatus.UNAUTHORIZED,
    Kind.NOT_JSON: HTTPStatus.BAD_REQUEST,
    Kind.EMPTY: HTTPStatus.BAD_REQUEST,
    Kind.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorOptions:
    """What to send, where and how fast."""

    url: str
    #: Empty: bodies go plain, and only the token vouches for them.
    encrypt_key: str = ""
    verification_token: str = ""
    #: Requests per second; 0 is as fast as they are answered.
    rate: float = 0
    #: Requests in all, repeats and hostile ones included; 0 is without end.
    count: int = 0
    #: Share of events that are sent a second time.
    repeat: float = 0
    #: Share of requests that must be refused.
    hostile: float = 0
    #: Tickets open at a time.
    tickets: int = 20
    app_id: str = "cli_9f5343c580712544"
    seed: int | None = None
    #: The target's limit on a body; oversized ones are just above it.
    max_body_bytes: int = 2**20
    #: Send an event again as Feishu does until it is taken, with its waits times this; 0: never.
    time_scale: float = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How one request was answered."""

    kind: Kind
    event_id: str
    event_type: str
    #: Empty when the event belongs to no ticket.
    ticket_id: str
    #: HTTP status, or NO_ANSWER.
    status: int
    expected: int
    #: Seconds.
    latency: float
    #: Why there was no answer.
    problem: str = ""
    #: Whether the event is sent again if this attempt has failed.
    again: bool = False
    #: Whether it went over the long connection.
    pushed: bool = False

    @property
    def unexpected(self) -> bool:
        """Whether the target broke its rules; what is sent again has not failed yet."""
        return self.status != self.expected and not self.again


@dataclass(slots=True)
class Summary:
    """Answers counted by kind and status; latencies of the last 100,000 in seconds."""

    counts: Counter[tuple[Kind, int]] = field(default_factory=Counter)
    unexpected: int = 0
    #: Attempts that failed, and were followed by another one.
    retried: int = 0
    #: Events whose last attempt failed.
    lost: int = 0
    slowest: float = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES_KEPT))

    def add(self, answer: Answer) -> None:
        """Count one answer."""
        self.counts[answer.kind, answer.status] += 1
        self.unexpected += answer.unexpected
        self.lost += answer.unexpected and not answer.kind.hostile
        self.retried += answer.again and answer.status != answer.expected
        if answer.status != NO_ANSWER:
            self.latencies.append(answer.latency)
            self.slowest = max(self.slowest, answer.latency)

    @property
    def sent(self) -> int:
        """All requests."""
        return self.counts.total()

    def quantile(self, share: float) -> float:
        """Give the latency that `share` of the answers did not exceed; 0 without answers."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One request, ready to be sent."""

    kind: Kind
    sample: Sample
    body: bytes
    headers: dict[str, str]


class Simulator:
    """Sends invented deliveries and judges the answers."""

    def __init__(self, options: SimulatorOptions, feishu: SmallFeishu | None = None) -> None:
        """With a small Feishu, events go to its long connections, and `options.url` is not used."""
        self._options = options
        self._feishu = feishu
        self._rng = random.Random(options.seed)
        self._helpdesk = self._invent(options.tickets)
        #: Hostile requests tell of other tickets, so that the real ones keep their whole lives.
        self._strangers = self._invent(1)
        self._made = 0
        #: Events to send again: (position among all requests, tie-breaker, event).
        self._repeats: list[tuple[int, int, Sample]] = []
        self._answered = False

    async def run(
        self, report: Callable[[Answer], None], stop: asyncio.Event | None = None
    ) -> None:
        """Send until `count` is reached or `stop` is set; report each answer as it comes.

        Raises RelayError if nothing listens at the URL from the start.
        """
        stop, slots = stop or asyncio.Event(), asyncio.Semaphore(_CONCURRENCY)
        timeout = aiohttp.ClientTimeout(total=ANSWER_LIMIT)
        connector = aiohttp.TCPConnector(limit=_CONCURRENCY)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
                asyncio.TaskGroup() as group,
            ):
                begun = time.monotonic()
                for number in self._numbers():
                    await self._pace(begun, number, stop)
                    await slots.acquire()
                    if stop.is_set():
                        break
                    task = group.create_task(self._deliver(session, self.next(), report))
                    task.add_done_callback(lambda _: slots.release())
        except* RelayError as group_error:
            raise group_error.exceptions[0] from None

    def next(self) -> Delivery:
        """Make the next request: a due repeat, a hostile one, or a new event."""
        self._made += 1
        if self._repeats and self._repeats[0][0] <= self._made:
            return self._delivery(Kind.REPEAT, heapq.heappop(self._repeats)[2])
        if self._rng.random() < self._options.hostile:
            return self._delivery(self._rng.choice(self._hostile_kinds()), self._strangers.next())
        sample = self._next_wanted()
        if self._rng.random() < self._options.repeat:
            later = 1 if self._rng.getrandbits(1) else self._rng.randint(2, 12)
            heapq.heappush(self._repeats, (self._made + later, self._made, sample))
        return self._delivery(Kind.EVENT, sample)

    def _next_wanted(self) -> Sample:
        """Go on with the helpdesk's story until something happens that is subscribed."""
        while True:
            sample = self._helpdesk.next()
            if self._feishu is None or self._feishu.wanted(sample.payload):
                return sample

    def _invent(self, tickets: int) -> Helpdesk:
        return Helpdesk(
            self._rng,
            tickets=tickets,
            app_id=self._options.app_id,
            token=self._options.verification_token,
            clock=lambda: time.time_ns() // 1_000_000,
        )

    def _numbers(self) -> Iterator[int]:
        return iter(range(self._options.count)) if self._options.count else itertools.count()

    async def _pace(self, begun: float, number: int, stop: asyncio.Event) -> None:
        """Wait until request `number` is due, or until `stop` is set."""
        if not self._options.rate:
            return
        wait = begun + number / self._options.rate - time.monotonic()
        if wait > 0:
            try:
                await asyncio.wait_for(stop.wait(), wait)
            except TimeoutError:
                return

    def _hostile_kinds(self) -> tuple[Kind, ...]:
        """Which forgeries make sense against what the target checks."""
        if self._feishu:
            return (Kind.NOT_JSON,)
        token = (Kind.WRONG_TOKEN,) if self._options.verification_token else ()
        if self._options.encrypt_key:
            return _HOSTILE_TO_ALL + _HOSTILE_TO_KEY + token
        return (*_HOSTILE_TO_ALL, Kind.UNASKED_CIPHER, *token)

    def _delivery(self, kind: Kind, sample: Sample) -> Delivery:
        """Write one delivery: body, then the headers that sign exactly this body."""
        key = "" if self._feishu else self._options.encrypt_key
        body = self._plain(kind, sample) if self._feishu else self._body(kind, sample)
        headers = {"Content-Type": "application/json;charset=utf-8"}
        if key and kind is not Kind.NO_SIGNATURE:
            if kind is Kind.BAD_SIGNATURE:
                key += "?"
            headers |= self._sign(body, key, age=_STALE if kind is Kind.STALE else 0)
        return Delivery(kind=kind, sample=sample, body=body, headers=headers)

    def _body(self, kind: Kind, sample: Sample) -> bytes:
        key, plain = self._options.encrypt_key, orjson.dumps(sample.payload)
        match kind:
            case Kind.NOT_JSON:
                return b"event=" + sample.event_id.encode()
            case Kind.TOO_LARGE:
                return b" " * (self._options.max_body_bytes + 1)
            case Kind.PLAIN_BODY:
                return plain
            case Kind.TRUNCATED:
                return _envelope(self._encrypt(plain, key)[:-7])
            case Kind.UNASKED_CIPHER:
                return _envelope(self._encrypt(plain, "a key that the target does not have"))
            case Kind.EMPTY:
                plain = b"{}"
            case Kind.WRONG_TOKEN:
                header = sample.payload["header"] | {"token": "not the token"}
                plain = orjson.dumps(sample.payload | {"header": header})
        return _envelope(self._encrypt(plain, key)) if key else plain

    @staticmethod
    def _plain(kind: Kind, sample: Sample) -> bytes:
        """Write what a long connection carries: no cipher, and an empty token."""
        if kind.hostile:
            return b"event=" + sample.event_id.encode()
        header = sample.payload["header"] | {"token": ""}
        return orjson.dumps(sample.payload | {"header": header})

    def _encrypt(self, plain: bytes, key: str) -> bytes:
        """Encrypt as Feishu does: IV in front, AES-256-CBC under SHA-256(key), PKCS#7."""
        iv = self._rng.randbytes(16)
        padder = PKCS7(128).padder()
        cipher = Cipher(algorithms.AES256(hashlib.sha256(key.encode()).digest()), modes.CBC(iv))
        encryptor = cipher.encryptor()
        padded = padder.update(plain) + padder.finalize()
        return iv + encryptor.update(padded) + encryptor.finalize()

    def _sign(self, body: bytes, key: str, *, age: int) -> dict[str, str]:
        timestamp = str(int(time.time()) - age)
        nonce = str(self._rng.randrange(10**8, 10**9))
        signature = hashlib.sha256((timestamp + nonce + key).encode() + body).hexdigest()
        return {
            "X-Lark-Request-Timestamp": timestamp,
            "X-Lark-Request-Nonce": nonce,
            "X-Lark-Signature": signature,
        }

    async def _deliver(
        self, session: aiohttp.ClientSession, request: Delivery, report: Callable[[Answer], None]
    ) -> None:
        """Send a request; an event that was not taken goes up the ladder of retries."""
        waits = [wait * self._options.time_scale for wait in LADDER]
        if request.kind.hostile or not self._options.time_scale:
            waits = []
        for wait in (*waits, None):
            answer = await self._attempt(session, request, again=wait is not None)
            report(answer)
            if wait is None or answer.status == answer.expected:
                return
            await asyncio.sleep(wait)

    async def _attempt(
        self, session: aiohttp.ClientSession, request: Delivery, *, again: bool
    ) -> Answer:
        begun, problem = time.perf_counter(), ""
        if self._feishu:
            status = await self._feishu.gateway.deliver(request.body, request.sample.event_id)
            if status == NO_ANSWER:
                problem = "not acknowledged"
        else:
            status, problem = await self._post(session, request)
        self._answered = self._answered or status != NO_ANSWER
        return Answer(
            kind=request.kind,
            event_id=request.sample.event_id,
            event_type=request.sample.event_type,
            ticket_id=request.sample.ticket_id,
            status=status,
            expected=request.kind.expected(long_connection=bool(self._feishu)),
            latency=time.perf_counter() - begun,
            problem=problem,
            again=again,
            pushed=self._feishu is not None,
        )

    async def _post(self, session: aiohttp.ClientSession, request: Delivery) -> tuple[int, str]:
        """Call the webhook; give the status, and why there is none."""
        try:
            async with session.post(
                self._options.url, data=BytesIO(request.body), headers=request.headers
            ) as response:
                await response.read()
                return response.status, ""
        except aiohttp.ClientConnectorError as error:
            if not self._answered and not self._options.time_scale:
                raise RelayError(
                    f"nothing listens at {self._options.url}: {error.strerror}"
                ) from None
            return NO_ANSWER, "connection refused"
        except aiohttp.InvalidURL:
            raise RelayError(f"{self._options.url!r} is not a URL") from None
        except TimeoutError:
            return NO_ANSWER, f"no answer within {ANSWER_LIMIT:.0f} s"
        except aiohttp.ClientError as error:
            return NO_ANSWER, f"connection lost: {type(error).__name__}"


def _envelope(cipher: bytes) -> bytes:
    return orjson.dumps({"encrypt": b64encode(cipher).decode()})

"""Stand-ins that tests talk to: Feishu's side of a callback, a Kafka in memory, small journals.

Written from Feishu's and Kafka's documentation, not from relay's code, so that they can disagree.
"""

import asyncio
import base64
import hashlib
import json
import os
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from relay.egress.tenure import Place, Tenure
from relay.errors import (
    KafkaUnavailableError,
    ProducerOustedError,
    RecordRefusedError,
    RecordTooLargeError,
)
from relay.events import Callback, DeadLetterReason, Landing, Record, Transport
from relay.journal.journal import Journal
from relay.observe.metrics import Metrics

KEY, TOKEN = "kudryavka", "v2rytVerificationToken0123456789"
MESSAGE_CREATED = "helpdesk.ticket_message.created_v1"


def payload(
    event_id: str = "e-1",
    *,
    event_type: str = MESSAGE_CREATED,
    token: str = TOKEN,
    event: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Give a schema 2.0 event as Feishu would send it."""
    return {
        "schema": "2.0",
        "header": {
            "event_id": event_id,
            "event_type": event_type,
            "create_time": "1608725989000",
            "token": token,
            "app_id": "cli_a",
            "tenant_key": "t1",
        },
        "event": {"ticket": {"ticket_id": "77"}, "text": "你好"} if event is None else event,
    }


def challenge(token: str = TOKEN, value: str = "ajls384kdjx98XX") -> dict[str, str]:
    """Give a URL verification."""
    return {"challenge": value, "token": token, "type": "url_verification"}


def encrypt(plain: bytes, key: str = KEY, iv: bytes | None = None) -> bytes:
    """Give the body that Feishu sends when an encrypt key is set."""
    iv = iv or os.urandom(16)
    padder = padding.PKCS7(128).padder()
    padded = padder.update(plain) + padder.finalize()
    algorithm = algorithms.AES256(hashlib.sha256(key.encode()).digest())
    encryptor = Cipher(algorithm, modes.CBC(iv)).encryptor()
    data = iv + encryptor.update(padded) + encryptor.finalize()
    return json.dumps({"encrypt": base64.b64encode(data).decode()}).encode()


def sign(body: bytes, key: str = KEY, timestamp: str | None = None) -> dict[str, str]:
    """Give the headers with which Feishu vouches for a body."""
    timestamp = str(int(time.time())) if timestamp is None else timestamp
    nonce = os.urandom(8).hex()
    digest = hashlib.sha256((timestamp + nonce + key).encode() + body).hexdigest()
    return {
        "X-Lark-Request-Timestamp": timestamp,
        "X-Lark-Request-Nonce": nonce,
        "X-Lark-Signature": digest,
    }


def as_json(value: object) -> bytes:
    """Write JSON as Feishu does: UTF-8, compact."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(slots=True)
class MemoryKafka:
    """A broker in memory: topics, one offset per journal, one epoch per transactional id."""

    records: list[Record] = field(default_factory=list)
    offsets: dict[str, int] = field(default_factory=dict)
    epochs: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    #: Who owns each offset, and what earlier owners had alone.
    signed: dict[str, Place] = field(default_factory=dict)
    #: What is told of a journal until it is opened: its coordinator has just come up.
    behind: dict[str, Place] = field(default_factory=dict)
    #: A record with a larger value is refused.
    max_bytes: int = 2**20
    #: Keys of records that are refused for what they are.
    refuses: set[bytes] = field(default_factory=set)
    #: What the next calls of `open` and `publish` meet, in order; None is success.
    on_open: list[Exception | None] = field(default_factory=list)
    before_commit: list[BaseException | None] = field(default_factory=list)
    #: Raised although the transaction is committed: the answer was lost.
    after_commit: list[Exception | None] = field(default_factory=list)

    def place(self, journal_id: str) -> Place:
        """Give what it knows of a journal."""
        signed = self.signed.get(journal_id, Place())
        return replace(signed, offset=self.offsets.get(journal_id, 0))

    def replace(self, journal_id: str, known_seq: int = 0) -> None:
        """Be opened by a successor on a copy of the journal that ends at `known_seq`."""
        self.epochs[journal_id] += 1
        before = self.place(journal_id)
        alone_from = {before.owner: max(before.offset, known_seq + 1), **before.alone_from}
        self.signed[journal_id] = Place(owner=uuid.uuid4().hex, alone_from=alone_from)

    @property
    def values(self) -> list[bytes | None]:
        """The values of all committed records, in order."""
        return [record.value for record in self.records]


class MemoryPublisher:
    """A `Publisher` on a MemoryKafka: exactly once, as the real one."""

    def __init__(self, kafka: MemoryKafka) -> None:
        self._kafka = kafka
        self._id: str | None = None
        self._epoch = 0
        self._signed = Place()

    async def find(self, journal_id: str) -> Place:
        """Give what Kafka tells."""
        _meet(self._kafka.on_open)
        return self._kafka.behind.get(journal_id, self._kafka.place(journal_id))

    async def open(self, journal_id: str) -> Place:
        """Fence an earlier publisher of this journal and give what it has left."""
        _meet(self._kafka.on_open)
        self._id = journal_id
        self._kafka.epochs[journal_id] += 1
        self._epoch = self._kafka.epochs[journal_id]
        self._kafka.behind.pop(journal_id, None)
        return self._kafka.place(journal_id)

    async def sign(self, place: Place) -> None:
        """Own the offset, as the metadata of a commit would tell."""
        journal_id = self._current()
        self._signed = Place.parse(0, place.metadata())
        self._kafka.signed[journal_id] = self._signed
        self._kafka.offsets[journal_id] = place.offset

    async def confirm(self, settled_seq: int) -> None:
        """Fail if this publisher's epoch is over: it was replaced, or the broker lost patience."""
        del settled_seq
        self._current()

    def _current(self) -> str:
        if self._id is None:
            raise KafkaUnavailableError("the publisher is not open")
        if self._epoch != self._kafka.epochs[self._id]:
            raise ProducerOustedError("Kafka has ended this producer")
        return self._id

    async def publish(self, records: AsyncIterable[Record], last_seq: int) -> list[Landing]:
        """Commit the records and the offset as one."""
        journal_id = self._current()
        _meet(self._kafka.before_commit)
        batch = [record async for record in records]
        for position, record in enumerate(batch):
            if len(record.value or b"") > self._kafka.max_bytes:
                raise RecordTooLargeError(position)
        refused = [n for n, record in enumerate(batch) if record.key in self._kafka.refuses]
        if refused:
            raise RecordRefusedError(*refused)
        first = len(self._kafka.records)
        self._kafka.records += batch
        self._kafka.offsets[journal_id] = last_seq + 1
        self._kafka.signed[journal_id] = self._signed
        _meet(self._kafka.after_commit)
        return [(0, first + n) for n in range(len(batch))]

    async def close(self) -> None:
        """Let go; an epoch that is not used harms nobody."""
        self._id = None


async def know(kafka: MemoryKafka, journal: Journal, offset: int = 0) -> None:
    """Let Kafka and the file know each other, as after a first start."""
    place = Place(offset=offset)
    tenure = Tenure(file=journal.identity).signing(uuid.uuid4().hex, Place()).signed()
    await journal.become(tenure.file)
    kafka.signed[journal.id] = tenure.successor(place)
    kafka.offsets[journal.id] = offset


def _meet(planned: list[Any]) -> None:
    if planned and (error := planned.pop(0)) is not None:
        raise error


@asynccontextmanager
async def journal_at(
    path: Path,
    metrics: Metrics | None = None,
    *,
    max_bytes: int = 2**30,
    max_waiting: int = 1000,
    window: float = 8 * 3600,
    letters_alone: bool = False,
) -> AsyncIterator[Journal]:
    """Open a journal and close it, whatever happens in between."""
    journal = Journal(
        path,
        metrics or Metrics(),
        max_bytes=max_bytes,
        max_waiting=max_waiting,
        window=window,
        letters_alone=letters_alone,
    )
    try:
        yield journal
    finally:
        await journal.close()


def event(
    event_id: str = "e-1",
    body: bytes | None = None,
    *,
    app: str = "default",
    received_at: int = 1_767_323_045_678,
    dead_letter: DeadLetterReason | None = None,
) -> Callback:
    """Give an authentic delivery."""
    return Callback(
        app=app,
        transport=Transport.WEBHOOK,
        received_at=received_at,
        event_id=event_id,
        event_type=MESSAGE_CREATED,
        body=as_json(payload(event_id)) if body is None else body,
        dead_letter=dead_letter,
    )


async def until(condition: Callable[[], object], seconds: float = 20) -> None:
    """Wait until something is so; fail if it never is."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - whatever can be asked, not only events
            await asyncio.sleep(0.005)

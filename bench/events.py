"""Makes Feishu webhook requests ahead of the measured time: unique, encrypted, signed.

A batch lies in memory that other processes map (no file, so no disk traffic), in slots of one
size: four bytes of length, then the bytes of one HTTP request.
"""
# ruff: noqa: RUF001 - Chinese text has its own punctuation.

import base64
import hashlib
import mmap
import os
import secrets
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

ENCRYPT_KEY = "bench-encrypt-key"
VERIFICATION_TOKEN = "bench-verification-token"
TOPIC = "feishu.helpdesk.ticket_message"
PATH = "/webhook/event"

SLOT = 2560
TICKETS = 2_000
_WORD = 1 << 64
#: Odd, so that multiplying by it is a bijection on 64 bits: ids look random, indexes come back.
_SPREAD = 0x9E3779B97F4A7C15
_UNSPREAD = pow(_SPREAD, -1, _WORD)

_TEXTS = (
    "请问vpn怎么下载？",
    "My laptop does not connect to the office Wi-Fi since this morning, could you have a look?",
    "您好，我的邮箱收不到外部邮件，重启之后还是一样，麻烦帮忙看一下，谢谢。",
    "Thanks, it works again now.",
    "打印机卡纸了，在三楼会议室旁边，红灯一直在闪。",
    'The expense form says \\"403 Forbidden\\" when I submit it. Screenshot attached.',
    "新同事下周一入职，请准备一台电脑和门禁卡。",
    "I have been waiting for two hours. Is anybody there?",
    "密码过期后无法登录，提示“账号已锁定”，请协助解锁。",
    "好的",
    "Please extend my access to the finance share until the end of the month; my manager agreed.",
    "会议室的投影仪没有信号，HDMI 线已经换过了，还是不行。",
)

_PAYLOAD = (
    '{"schema":"2.0","header":{"event_id":"%(event)s","token":"%(token)s",'
    '"create_time":"%(now)d","event_type":"helpdesk.ticket_message.created_v1",'
    '"tenant_key":"2ca1d211f64f6438","app_id":"cli_9f5343c580712544"},"event":{'
    '"ticket_message_id":"%(message)d","message_id":"om_%(event)s","msg_type":"text",'
    '"position":"%(position)d","sender_id":{"union_id":"on_%(sender)s","user_id":"e33ggbyz",'
    '"open_id":"ou_%(sender)s"},"sender_type":2,"text":"%(text)s","ticket":{'
    '"ticket_id":"%(ticket)d","ticket_type":2,"status":2,"score":0,"created_at":%(opened)d,'
    '"customized_fields":[{'
    '"id":"6948728206392295444","value":"VPN","key_name":"ticket_category",'
    '"display_name":"Category","position":1,"required":true,"editable":false}],'
    '"agent_service_duration":3.5,"agent_first_response_duration":12,'
    '"agent_owner":{"id":"ou_37019b7c830210acd88fdce886e25c71","name":"李雷"}},'
    '"event_id":"118a6492-122d-04ad-4370-%(inner)012x","chat_id":"6949088236610273307",'
    '"content":{"content":"%(text)s","msg_type":"text"}}}'
)

_REQUEST = (
    b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: Go-http-client/1.1\r\n"
    b"Content-Length: %d\r\nAccept-Encoding: gzip\r\n"
    b"Content-Type: application/json;charset=utf-8\r\nX-Lark-Request-Nonce: %b\r\n"
    b"X-Lark-Request-Timestamp: %b\r\nX-Lark-Signature: %b\r\nX-Request-Id: %b\r\n\r\n%b"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Requests in shared memory; another process opens it by its inherited descriptor."""

    descriptor: int
    #: 16 hex digits at the end of each event id of this batch.
    run: str
    count: int


class Requests:
    """Reads a batch: `requests[index]` is one HTTP request."""

    def __init__(self, descriptor: int, count: int) -> None:
        self._view = memoryview(
            mmap.mmap(descriptor, count * SLOT, mmap.MAP_SHARED, mmap.PROT_READ)
        )

    def __getitem__(self, index: int) -> memoryview:
        """Give the bytes of one request, without a copy."""
        start = index * SLOT
        length = int.from_bytes(self._view[start : start + 4], "little")
        return self._view[start + 4 : start + 4 + length]


class Generator:
    """Fills batches with worker processes, one per core."""

    def __init__(self, workers: ProcessPoolExecutor, cores: int) -> None:
        self._workers = workers
        self._cores = cores

    @contextmanager
    def batch(self, count: int) -> Iterator[Batch]:
        """Make a batch that lives as long as the context."""
        descriptor = os.memfd_create("relay-bench-events")
        try:
            os.truncate(descriptor, count * SLOT)
            run = secrets.token_hex(8)
            path = f"/proc/{os.getpid()}/fd/{descriptor}"
            step = -(-count // (4 * self._cores))
            jobs = [
                self._workers.submit(_fill, path, run, range(first, min(first + step, count)))
                for first in range(0, count, step)
            ]
            for job in jobs:
                job.result()
            yield Batch(descriptor=descriptor, run=run, count=count)
        finally:
            os.close(descriptor)


@contextmanager
def generator(cores: Sequence[int]) -> Iterator[Generator]:
    """Start the workers; they end with the context."""
    workers = ProcessPoolExecutor(
        len(cores),
        mp_context=get_context("spawn"),
        initializer=_start_worker,
        initargs=(tuple(cores),),
    )
    try:
        yield Generator(workers, len(cores))
    finally:
        workers.shutdown(cancel_futures=True)


def event_id(index: int, run: str) -> str:
    """Spread the index over 64 bits: neighbours in time are no neighbours in an index."""
    return f"{index * _SPREAD % _WORD:016x}{run}"


def index_of(identifier: str, run: str) -> int | None:
    """Give the index of an event id of this run; None for any other."""
    if not identifier.endswith(run):
        return None
    return int(identifier[:16], 16) * _UNSPREAD % _WORD


def payload(index: int, run: str, now_ms: int) -> bytes:
    """Give one decrypted `helpdesk.ticket_message.created_v1`, about 1.1 KB."""
    event = event_id(index, run)
    text = _TEXTS[int(event[0:3], 16) % len(_TEXTS)]
    ticket = int(event[3:9], 16) % TICKETS
    fields = {
        "event": event,
        "token": VERIFICATION_TOKEN,
        "now": now_ms,
        "message": 6949088240624222236 + index,
        "position": index // TICKETS + 1,
        "sender": event[::-1],
        "text": text,
        "ticket": 6626871355780366331 + ticket,
        "opened": now_ms - 60_000,
        "inner": index,
    }
    return (_PAYLOAD % fields).encode()


class Signer:
    """Encrypts and signs like Feishu; one cipher context serves every event.

    In CBC the last block of one message serves as the IV of the next, so a single running
    encryptor yields valid messages without being built anew.
    """

    def __init__(self) -> None:
        key = hashlib.sha256(ENCRYPT_KEY.encode()).digest()
        self._last = secrets.token_bytes(16)
        self._encryptor = Cipher(algorithms.AES256(key), modes.CBC(self._last)).encryptor()

    def request(self, body: bytes, identifier: str, seconds: int) -> bytes:
        """Wrap a payload into a whole HTTP request."""
        padding = 16 - len(body) % 16
        encrypted = self._encryptor.update(body + bytes((padding,)) * padding)
        message = b'{"encrypt":"%b"}' % base64.b64encode(self._last + encrypted)
        self._last = encrypted[-16:]
        stamp, nonce = str(seconds).encode(), identifier[:10].encode()
        digest = hashlib.sha256(stamp + nonce + ENCRYPT_KEY.encode() + message).hexdigest()
        return _REQUEST % (
            PATH.encode(),
            len(message),
            nonce,
            stamp,
            digest.encode(),
            identifier.encode(),
            message,
        )


def _start_worker(cores: tuple[int, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.sched_setaffinity(0, cores)


def _fill(path: str, run: str, indexes: range) -> None:
    """Write the slots of some events (in a worker)."""
    signer = Signer()
    now_ms = time.time_ns() // 1_000_000
    with Path(path).open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        for index in indexes:
            body = payload(index, run, now_ms)
            request = signer.request(body, event_id(index, run), now_ms // 1000)
            start = index * SLOT
            memory[start : start + 4 + len(request)] = len(request).to_bytes(4, "little") + request

"""Plays Feishu inside the cluster, out of relay's image, and at the end asks Kafka for each event.

It sends through the Service until SIGTERM, repeats what is not answered 200 (and some of what is),
prints a line of counts each second, and then whether every acknowledged event is there once.
"""

import asyncio
import base64
import hashlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress

import aiohttp
from aiokafka import AIOKafkaConsumer, TopicPartition
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

URL, KEY, TOKEN = os.environ["URL"], os.environ["KEY"], os.environ["TOKEN"]
BOOTSTRAP, PREFIX = os.environ["BOOTSTRAP"], os.environ["PREFIX"]
RATE, REPEAT = float(os.environ.get("RATE", "50")), 0.1
#: Seconds: Feishu's limit for an answer, until a retry, and until Kafka must show everything.
LIMIT, RETRY, SHOWN = 3.0, 0.5, 90.0
RUN = f"{time.time_ns():x}"

stop = asyncio.Event()
acknowledged: list[str] = []
answers: Counter[str] = Counter()
latencies: list[float] = []


def request(event_id: str, ticket: str) -> tuple[bytes, dict[str, str]]:
    """Make, encrypt and sign an event."""
    body = {
        "schema": "2.0",
        "header": {
            "event_id": event_id,
            "event_type": "helpdesk.ticket.updated_v1",
            "token": TOKEN,
            "create_time": str(time.time_ns() // 10**6),
            "tenant_key": "walk",
            "app_id": "cli_walk",
        },
        "event": {"object": {"ticket_id": ticket, "status": 2}},
    }
    padder, iv = PKCS7(128).padder(), os.urandom(16)
    encryptor = Cipher(
        algorithms.AES256(hashlib.sha256(KEY.encode()).digest()), modes.CBC(iv)
    ).encryptor()
    plain = padder.update(json.dumps(body).encode()) + padder.finalize()
    encrypted = base64.b64encode(iv + encryptor.update(plain) + encryptor.finalize()).decode()
    data = json.dumps({"encrypt": encrypted}).encode()
    timestamp, nonce = str(int(time.time())), os.urandom(8).hex()
    signature = hashlib.sha256((timestamp + nonce + KEY).encode() + data).hexdigest()
    return data, {
        "Content-Type": "application/json",
        "X-Lark-Request-Timestamp": timestamp,
        "X-Lark-Request-Nonce": nonce,
        "X-Lark-Signature": signature,
    }


async def deliver(session: aiohttp.ClientSession, event_id: str, ticket: str) -> bool:
    """Deliver once; say whether it was answered 200 in time."""
    data, headers = request(event_id, ticket)
    began, status = time.perf_counter(), "none"
    try:
        async with session.post(URL, data=data, headers=headers) as answer:
            await answer.read()
            status = str(answer.status)
    except TimeoutError:
        status = "timeout"
    except aiohttp.ClientError as error:
        status = type(error).__name__
    answers[status] += 1
    latencies.append(time.perf_counter() - began)
    return status == "200"


async def send(session: aiohttp.ClientSession, number: int) -> None:
    """Deliver an event until it is taken, and now and then once more."""
    event_id, ticket = f"{RUN}-{number:07d}", f"{RUN}{number % 40:03d}"
    while True:
        if await deliver(session, event_id, ticket):
            break
        await asyncio.sleep(RETRY)
    acknowledged.append(event_id)
    if random.random() < REPEAT:
        await deliver(session, event_id, ticket)


async def report() -> None:
    """Print the counts each second."""
    while True:
        await asyncio.sleep(1)
        recent = sorted(latencies[-500:])
        p99 = round(recent[int(len(recent) * 0.99)] * 1000) if recent else None
        print(
            json.dumps({"acknowledged": len(acknowledged), "answers": answers, "p99_ms": p99}),
            flush=True,
        )


async def seen() -> Counter[str]:
    """Count how often each of our events is on Kafka."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=BOOTSTRAP, isolation_level="read_committed", enable_auto_commit=False
    )
    await consumer.start()
    try:
        topic = f"{PREFIX}helpdesk.ticket"
        places = [
            TopicPartition(topic, number)
            for number in consumer.partitions_for_topic(topic) or await partitions(consumer, topic)
        ]
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends = await consumer.end_offsets(places)
        found: Counter[str] = Counter()
        while any([await consumer.position(place) < ends[place] for place in places]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found.update(dict(record.headers)["ce_id"].decode() for record in records)
        return Counter({name: count for name, count in found.items() if name.startswith(RUN)})
    finally:
        await consumer.stop()


async def partitions(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    """Learn of a topic that the client has not heard of."""
    await consumer._client.set_topics([topic])
    return consumer.partitions_for_topic(topic) or set()


async def main() -> int:
    """Send, then compare."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    reporting = asyncio.create_task(report())
    timeout = aiohttp.ClientTimeout(total=LIMIT)
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
        number, began = 0, time.monotonic()
        while not stop.is_set():
            number += 1
            group.create_task(send(session, number))
            due = began + number / RATE - time.monotonic()
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), max(due, 0.001))
    reporting.cancel()
    deadline = time.monotonic() + SHOWN
    while True:
        found = await seen()
        missing = [name for name in acknowledged if name not in found]
        if not missing or time.monotonic() > deadline:
            break
        await asyncio.sleep(1)
    twice = [name for name, count in found.items() if count > 1]
    result = {
        "acknowledged": len(acknowledged),
        "on_kafka": len(found),
        "lost": len(missing),
        "twice": len(twice),
        "answers": answers,
        "examples": [*missing[:3], *twice[:3]],
    }
    print("RESULT " + json.dumps(result), flush=True)
    return int(bool(missing or twice))


sys.exit(asyncio.run(main()))

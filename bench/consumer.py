"""A read-committed consumer: `python -m bench.consumer BOOTSTRAP RUN COUNT`.

Prints `ready`; then, when it has seen COUNT events of the run or nothing for ten seconds, one
JSON list of [index, monotonic seconds at which it had the record].
"""

import json
import sys
import time

import uvloop
from aiokafka import AIOKafkaConsumer

from bench.events import TOPIC, index_of

_PATIENCE_MS = 10_000


async def consume(bootstrap: str, run: str, count: int) -> None:
    """Read what is committed from now on; the topic must exist."""
    consumer = AIOKafkaConsumer(
        TOPIC, bootstrap_servers=bootstrap, isolation_level="read_committed"
    )
    await consumer.start()
    try:
        for partition in consumer.assignment():
            await consumer.position(partition)
        print("ready", flush=True)
        print(json.dumps(await _collect(consumer, run, count)), flush=True)
    finally:
        await consumer.stop()


async def _collect(consumer: AIOKafkaConsumer, run: str, count: int) -> list[tuple[int, float]]:
    seen: list[tuple[int, float]] = []
    while len(seen) < count:
        batches = await consumer.getmany(timeout_ms=_PATIENCE_MS)
        now = time.monotonic()
        if not batches:
            break
        for records in batches.values():
            for record in records:
                index = index_of(dict(record.headers)["ce_id"].decode(), run)
                if index is not None:
                    seen.append((index, now))
    return seen


if __name__ == "__main__":
    uvloop.run(consume(sys.argv[1], sys.argv[2], int(sys.argv[3])))

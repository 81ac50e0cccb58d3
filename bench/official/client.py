"""The same job with the official Python client: each event to Kafka, and only then its ack.

A process of its own, in an environment with `lark-oapi`: `python client.py URL BOOTSTRAP TOPIC
EXTRA`, EXTRA being a directory with aiokafka. It is what a careful user of the SDK writes: the
handler is synchronous and runs in the SDK's loop, so the producer lives in a thread of its own and
the handler waits for it.
"""

import asyncio
import json
import sys
import threading
from typing import Any

import lark_oapi  # type: ignore[import-not-found]  # of its own environment

sys.path.append(sys.argv[4])
from aiokafka import AIOKafkaProducer

TYPES = ("helpdesk.ticket_message.created_v1",)


class Producer:
    """An idempotent producer in a loop of its own."""

    def __init__(self, bootstrap: str) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._producer = self._wait(self._started(bootstrap))

    async def _started(self, bootstrap: str) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap, acks="all", enable_idempotence=True
        )
        await producer.start()
        return producer

    def publish(self, topic: str, key: str, value: bytes, event_id: str) -> None:
        """Publish one record and wait until all replicas have it."""
        headers = [("ce_id", event_id.encode())]
        self._wait(self._producer.send_and_wait(topic, value, key=key.encode(), headers=headers))

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def main(url: str, bootstrap: str, topic: str) -> None:
    """Run until the process is stopped."""
    producer = Producer(bootstrap)

    def on_event(data: Any) -> None:
        body = json.loads(lark_oapi.JSON.marshal(data))
        event = body["event"]
        value = json.dumps(body, ensure_ascii=False).encode()
        producer.publish(topic, event["ticket"]["ticket_id"], value, body["header"]["event_id"])

    builder = lark_oapi.EventDispatcherHandler.builder("", "")
    for event_type in TYPES:
        builder.register_p2_customized_event(event_type, on_event)
    client = lark_oapi.ws.Client(
        "cli_bench",
        "bench-secret",
        event_handler=builder.build(),
        domain=url,
        log_level=lark_oapi.LogLevel.ERROR,
    )
    client.start()


if __name__ == "__main__":
    main(*sys.argv[1:4])

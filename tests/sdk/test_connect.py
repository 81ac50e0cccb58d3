"""Kafka Connect reads relay's records by the schema that `relay schema --as connect` prints."""

import contextlib
import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.fakes import MESSAGE_CREATED
from tests.kafka_server import Broker
from tests.ports import free_port
from tests.sdk.kit import COUNT, blocks, built, expected, flattened, printed, pruned, values
from tests.sdk.toolchains import CONNECT

#: Installing it for the first time takes a minute.
pytestmark = pytest.mark.timeout(600)


def connector(topic: str, example: str, file: Path) -> dict[str, str]:
    """Give a documented configuration, but into a file goes what its sink would get."""
    settings = dict(line.split("=", 1) for line in example.splitlines())
    settings["transforms"] += ",shown"
    written = printed(MESSAGE_CREATED, "connect").strip()
    assert settings.pop("value.converter.schema.content") == "THE PRINTED LINE"
    kept = {name: said for name, said in settings.items() if "transforms" in name}
    kept |= {name: said for name, said in settings.items() if name.startswith(("key.c", "value.c"))}
    return kept | {
        "name": f"{topic}-{settings['name']}",
        "connector.class": "org.apache.kafka.connect.file.FileStreamSinkConnector",
        "consumer.override.isolation.level": settings["consumer.override.isolation.level"],
        "topics": topic,
        "file": str(file),
        "transforms.shown.type": "Client",
        "value.converter.schema.content": written,
    }


def publish(bootstrap: str, topic: str, records: list[Any]) -> None:
    """Publish in a transaction; one before it is aborted, and has what no reader should see."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    (made,) = admin.create_topics([NewTopic(topic, num_partitions=1)]).values()
    made.result(30)
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": topic})
    producer.init_transactions(30)
    for committed in (False, True):
        producer.begin_transaction()
        for record in records if committed else records[:1]:
            value = json.dumps(record, ensure_ascii=False).encode()
            producer.produce(topic, value=value, key=(record["ticket_id"] or "none").encode())
        producer.flush(30)
        if committed:
            producer.commit_transaction(30)
        else:
            producer.abort_transaction(30)


@contextlib.contextmanager
def worker(bootstrap: str, folder: Path, connectors: list[dict[str, str]]) -> Iterator[Path]:
    """Run a worker with connectors, until the block ends; gives its log."""
    command = built(CONNECT)
    files = {
        "worker": {
            "bootstrap.servers": bootstrap,
            "key.converter": "org.apache.kafka.connect.storage.StringConverter",
            "value.converter": "org.apache.kafka.connect.storage.StringConverter",
            "offset.storage.file.filename": str(folder / "offsets"),
            # A file's lines are written out when offsets are.
            "offset.flush.interval.ms": "300",
            "plugin.discovery": "service_load",
            "listeners": f"http://127.0.0.1:{free_port()}",
        },
    } | {one["name"]: one for one in connectors}
    for name, properties in files.items():
        lines = "".join(f"{key}={value}\n" for key, value in properties.items())
        (folder / f"{name}.properties").write_text(lines)
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, *(str(folder / f"{name}.properties") for name in files)],
            stdout=out,
            stderr=subprocess.STDOUT,
        )
        try:
            yield log
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def lines_of(path: Path, count: int, log: Path) -> list[tuple[Any, Any]]:
    """Wait for so many lines; give each one's key and value, each with its schema."""
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.1)
    # Not by splitlines: records have characters that Python takes for the end of a line.
    lines = [line.split("\t") for line in path.read_text().rstrip("\n").split("\n")]
    return [(json.loads(key), json.loads(value)) for key, value in lines]


def as_connect(value: Any, column: str = "") -> Any:
    """Make null of what Kafka Connect has no type for."""
    if column == "unexpected" and value is not None:
        return {name: one if isinstance(one, str) else None for name, one in value.items()}
    if isinstance(value, dict):
        return {name: as_connect(one, name) for name, one in value.items()}
    if isinstance(value, list):
        return None if column == "value" else [as_connect(one) for one in value]
    return value


def test_kafka_connect_gives_typed_fields_to_its_sinks(
    kafka: Broker, topic_prefix: str, tmp_path: Path
) -> None:
    """With the printed schema, and the configurations that docs/consume.md shows."""
    topic = f"{topic_prefix}messages"
    publish(kafka.bootstrap, topic, values(MESSAGE_CREATED))
    files = tmp_path / "messages.out", tmp_path / "search.out"
    examples_ = [
        connector(topic, one, file) for one, file in zip(blocks("properties"), files, strict=True)
    ]
    with worker(kafka.bootstrap, tmp_path, examples_) as log:
        tables, documents = (lines_of(file, COUNT + 1, log) for file in files)

    sent = expected(MESSAGE_CREATED)
    made = [pruned(as_connect(one)) for one in sent]
    assert [pruned(one["payload"]) for _, one in documents] == made
    assert [key["payload"] for key, _ in documents] == [one["event"]["id"] for one in sent]
    schema = json.loads(printed(MESSAGE_CREATED, "connect"))
    assert all(one["schema"] == schema for _, one in documents)

    columns = re.findall(r'^  "(.+?)" (.+?),?$', printed(MESSAGE_CREATED, "sql"), re.MULTILINE)
    scalars = [name for name, kind in columns if kind != "jsonb"]
    for (_, row), one in zip(tables, sent, strict=True):
        assert list(row["payload"]) == scalars
        columns_of = flattened(one, MESSAGE_CREATED)
        assert pruned(row["payload"]) == pruned({name: columns_of.get(name) for name in scalars})

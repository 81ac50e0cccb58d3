"""What consumers see, live: reads committed records of given topics and shows them.

Joins no consumer group, commits no offset and creates no topic: it leaves no trace on the broker.
"""

import asyncio
import time
from base64 import b64encode
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from relay.contract import exactjson
from relay.contract.printable import escaped, printable
from relay.errors import KafkaUnavailableError

#: Seconds between two looks for topics and partitions that were not there before.
_LOOK_INTERVAL = 1.0
#: Seconds that one fetch may wait for records.
_POLL = 0.25
#: Columns of a terminal from which topics and ids are shown whole.
WIDE = 112
_ID_TAIL = 9
#: Columns that a message's text may take.
SUMMARY_WIDTH = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One record as a consumer sees it."""

    topic: str
    partition: int
    offset: int
    #: Unix time in milliseconds.
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    def header(self, name: str) -> str:
        """Give a header as text; empty if it is not there."""
        return next(
            (value.decode(errors="replace") for key, value in self.headers if key == name), ""
        )


class Tail:
    """Follows topics; where it starts is fixed when the context is entered.

    `kafka_options` are aiokafka's (`bootstrap_servers`, `security_protocol`, ...). A topic that
    comes to be later is read from its beginning.
    """

    def __init__(
        self, kafka_options: dict[str, Any], topics: Sequence[str], *, from_beginning: bool
    ) -> None:
        self._topics = frozenset(topics)
        self._servers = kafka_options["bootstrap_servers"]
        self._from_beginning = from_beginning
        self._client = AIOKafkaClient(**kafka_options)
        self._consumer = AIOKafkaConsumer(
            **kafka_options,
            group_id=None,
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
            check_crcs=False,  # the embedded broker's transaction markers carry none
        )
        self._positions: dict[TopicPartition, int] = {}

    async def __aenter__(self) -> Self:
        """Connect and take up the positions. Raises KafkaUnavailableError."""
        try:
            await self._client.bootstrap()
            await self._consumer.start()
            await self._assign(from_beginning=self._from_beginning)
        except (KafkaError, OSError) as error:
            await self._close()
            raise KafkaUnavailableError(f"no broker answers at {self._servers}") from error
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Disconnect."""
        await self._close()

    async def records(self) -> AsyncGenerator[Seen, None]:
        """Give each record as it comes, without end."""
        next_look = time.monotonic() + _LOOK_INTERVAL
        while True:
            if time.monotonic() >= next_look:
                await self._look()
                next_look = time.monotonic() + _LOOK_INTERVAL
            if not self._positions:
                await asyncio.sleep(_POLL)
                continue
            batches = await self._consumer.getmany(timeout_ms=int(_POLL * 1000))
            for partition, records in batches.items():
                self._positions[partition] = records[-1].offset + 1
            for record in sorted(chain(*batches.values()), key=lambda record: record.timestamp):
                yield _seen(record)

    async def _look(self) -> None:
        """Take in new partitions; brokers that are away are waited for."""
        try:
            await self._assign(from_beginning=True)
        except (KafkaError, OSError):
            return

    async def _assign(self, *, from_beginning: bool) -> None:
        """Add partitions that are new; assigning resets positions, so each one is set again.

        The metadata of all topics is asked for, because asking for one by name could create it.
        """
        cluster = await self._client.fetch_all_metadata()
        known = {
            TopicPartition(topic, number)
            for topic in self._topics & cluster.topics()
            for number in cluster.partitions_for_topic(topic) or ()
        }
        new = known - self._positions.keys()
        if not new:
            return
        look_up = self._consumer.beginning_offsets if from_beginning else self._consumer.end_offsets
        self._positions |= await look_up(list(new))
        self._consumer.assign(list(self._positions))
        for partition, offset in self._positions.items():
            self._consumer.seek(partition, offset)

    async def _close(self) -> None:
        await self._consumer.stop()
        await self._client.close()


async def follow(
    kafka_options: dict[str, Any], topics: Sequence[str], *, from_beginning: bool
) -> AsyncGenerator[Seen, None]:
    """Give the committed records of `topics`, live. Raises KafkaUnavailableError at the start."""
    async with (
        Tail(kafka_options, topics, from_beginning=from_beginning) as tail,
        aclosing(tail.records()) as records,
    ):
        async for record in records:
            yield record


async def show(
    console: Console,
    records: AsyncGenerator[Seen, None],
    *,
    prefix: str = "",
    as_json: bool = False,
) -> None:
    """Print records as they come, one line each; Ctrl-C ends it quietly."""
    async with aclosing(records):
        with suppress(asyncio.CancelledError):
            async for record in records:
                if as_json:
                    console.file.write(as_line(record) + "\n")
                    console.file.flush()
                else:
                    console.print(render(record, prefix, width=console.width), soft_wrap=True)


def render(record: Seen, prefix: str = "", *, width: int = 120) -> Text:
    """Show a record in one line for a person: when, what, who, and where on Kafka."""
    ticket, short, rest = summarize(record)
    wide = width >= WIDE
    name = record.topic.removeprefix(prefix)
    topic = column(name, 25) if wide else column(name.removeprefix("helpdesk."), 16)
    place = f"{record.partition}/{record.offset}"
    left = max(8, min(width - (66 if wide else 47) - len(place), SUMMARY_WIDTH + 2))
    line = Text.assemble((local_time(record.timestamp / 1000), "dim"))
    if reason := record.header("relay_reason"):
        line.append(topic, "red")
        line.append(short_id(printable(record.key or b""), wide=wide), "red")
        line.append(column(f"{reason}: {record.header('relay_detail')}", 10 + left), "bold red")
    else:
        line.append(topic, "cyan")
        line.append(short_id(ticket, wide=wide))
        line.append(column(short, 10), TYPE_STYLES.get(short, ""))
        line.append(column(rest, left))
    return line.append(place, "dim")


def local_time(seconds: float) -> str:
    """Write a moment as the clock on the wall shows it, ten columns wide."""
    return f"{datetime.fromtimestamp(seconds, UTC).astimezone():%H:%M:%S}  "


def short_id(text: str, *, wide: bool) -> str:
    """Write an id whole in 21 columns, or its last digits in 11."""
    if wide or len(text) <= _ID_TAIL:
        return column(text, 21 if wide else 11)
    return column("…" + text[-_ID_TAIL + 1 :], 11)


TYPE_STYLES = {
    "message": "green",
    "created": "bold blue",
    "updated": "yellow",
    "approve": "magenta",
}


def summarize(record: Seen) -> tuple[str, str, str]:
    """Give ticket id, short event type, and who said or what became what."""
    try:
        value = exactjson.loads(record.value or b"")
        data, event_type = value["data"], str(value["event"]["type"])
    except (ValueError, KeyError, TypeError):
        return "", "?", printable(record.value or b"")
    ticket_id, data = value.get("ticket_id") or "-", data if isinstance(data, dict) else {}
    short = short_type(event_type)
    return printable(str(ticket_id)), short, printable(_story(short, data))


def short_type(event_type: str) -> str:
    """Shorten `helpdesk.ticket_message.created_v1` to `message`, others to their last word."""
    words = event_type.split(".")
    if len(words) > 1 and words[-2] == "ticket_message":
        return "message"
    return printable(words[-1].removesuffix("_v1"))


def _story(short: str, data: dict[str, Any]) -> str:
    match short:
        case "message":
            return f"{data.get('sender_type', '?')}: {data.get('text', '')}"
        case "created":
            guest = data.get("guest")
            name = guest.get("name", "") if isinstance(guest, dict) else ""
            return f"{data.get('status', '')} by {name}" if name else str(data.get("status", ""))
        case "updated":
            return _changes(data.get("object"), data.get("old_object"))
        case "approve":
            return str(data.get("approve_status", ""))
    return ""


def _changes(new: Any, old: Any) -> str:
    """Say what an update changed: `status processing → closed_by_agent`."""
    if not isinstance(new, dict) or not isinstance(old, dict):
        return ""
    shown = [name for name in ("status", "stage", "score", "solve") if name in old]
    return ", ".join(f"{name} {old[name]} → {new.get(name)}" for name in shown)


def as_line(record: Seen) -> str:
    """Write a record as one line of JSON; a value that is not JSON comes as text or base64."""
    line: dict[str, Any] = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": record.key.decode(errors="replace") if record.key is not None else None,
        "headers": {name: value.decode(errors="replace") for name, value in record.headers},
    }
    try:
        line["value"] = exactjson.loads(record.value) if record.value is not None else None
    except ValueError:
        try:
            line["value"] = (record.value or b"").decode()
        except UnicodeDecodeError:
            line["value_base64"] = b64encode(record.value or b"").decode()
    try:
        return escaped(exactjson.dumps(line).decode())
    except exactjson.TooDeepError:
        line["value"] = (record.value or b"").decode(errors="replace")
        return escaped(exactjson.dumps(line).decode())


def column(text: str, width: int) -> str:
    """Fit text into so many columns of the terminal, a gap of two included; CJK takes two each."""
    text = printable(text)
    if cell_len(text) > width - 2:
        text = set_cell_size(text, width - 3).rstrip() + "…"
    return set_cell_size(text, width)


def _seen(record: Any) -> Seen:
    return Seen(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp=record.timestamp,
        key=record.key,
        value=record.value,
        headers=tuple(record.headers),
    )

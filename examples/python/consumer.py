"""Keeps, for each ticket, how many messages it has and what was said last; counts none twice.

The work and the event's id are one transaction of the database; only then Kafka is told that the
records are done. A crash in between brings them once more, and their ids tell what to skip. So all
processes of a group must use one database: a partition may move to another at any time.

Any error ends the process. Whoever starts it again (systemd, Kubernetes) loses nothing.
"""

import os
import signal
import sqlite3

from confluent_kafka import Consumer, KafkaException, Message
from message_created import MessageCreated

TYPE = b"com.feishu.helpdesk.ticket_message.created_v1"

TABLES = """
    PRAGMA journal_mode = WAL;
    CREATE TABLE IF NOT EXISTS handled (source TEXT, id TEXT, PRIMARY KEY (source, id));
    CREATE TABLE IF NOT EXISTS ticket (
        ticket_id TEXT PRIMARY KEY, messages INTEGER, last_sender TEXT, last_text TEXT);
"""
HANDLED = "INSERT INTO handled VALUES (?, ?) ON CONFLICT DO NOTHING"
COUNT = """INSERT INTO ticket (ticket_id, messages) VALUES (?, 1)
    ON CONFLICT (ticket_id) DO UPDATE SET messages = ticket.messages + 1"""
LAST = "UPDATE ticket SET last_sender = ?, last_text = ? WHERE ticket_id = ?"

SETTINGS = {
    "bootstrap.servers": os.environ.get("BOOTSTRAP_SERVERS", "localhost:9092"),
    "group.id": os.environ.get("GROUP", "tickets-python"),
    "auto.offset.reset": "earliest",  # a new group begins with the oldest record
    "isolation.level": "read_committed",  # not what an aborted transaction has left
    "enable.auto.commit": False,  # a timer does not know what is done
    "session.timeout.ms": 10_000,  # after a crash, others get its partitions this soon
}


def handle(database: sqlite3.Connection, message: Message) -> None:
    """Do the work for one record, unless that was done before."""
    headers = dict(message.headers() or [])
    if headers.get("ce_type") != TYPE:
        return  # of another type, that this program does not know
    event = (headers["ce_source"].decode(), headers["ce_id"].decode())
    if database.execute(HANDLED, event).rowcount == 0:
        return  # it was handled before a crash, or before a replay
    record = MessageCreated.model_validate_json(message.value())
    ticket = message.key().decode()
    database.execute(COUNT, (ticket,))
    if headers.get("relay_late") != b"1":  # a late message counts, but it is not the last one
        database.execute(LAST, (record.data.sender_type, record.data.text, ticket))


def main() -> None:
    """Consume until SIGTERM or Ctrl-C."""
    stopped = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.append(True))
    database = sqlite3.connect(os.environ.get("DATABASE", "tickets.db"))
    database.executescript(TABLES)
    consumer = Consumer(SETTINGS)
    consumer.subscribe([os.environ.get("TOPIC", "feishu.helpdesk.ticket_message")])
    while not stopped:
        messages = consumer.consume(num_messages=500, timeout=1.0)
        with database:  # one transaction: the work, and the ids of the events
            for message in messages:
                if error := message.error():
                    raise KafkaException(error)
                handle(database, message)
        if messages:
            consumer.commit(asynchronous=False)  # after the work, never before
    consumer.close()


if __name__ == "__main__":
    main()

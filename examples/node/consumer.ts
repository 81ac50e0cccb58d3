// Keeps, for each ticket, how many messages it has and what was said last; counts none twice.
//
// The work and the event's id are one transaction of the database; only then Kafka is told that
// the records are done. A crash in between brings them once more, and their ids tell what to skip.
// So all processes of a group must use one database: a partition may move to another at any time.
//
// Any error ends the process. Whoever starts it again (systemd, Kubernetes) loses nothing.

import { type EachBatchPayload, Kafka, type KafkaMessage, logLevel } from "kafkajs";
import Database from "libsql";
import type { HelpdeskTicketMessageCreatedV1 as MessageCreated } from "./message_created.js";

const TYPE = "com.feishu.helpdesk.ticket_message.created_v1";

const database = new Database(process.env.DATABASE ?? "tickets.db");
database.exec(`
  PRAGMA busy_timeout = 5000;
  PRAGMA journal_mode = WAL;
  CREATE TABLE IF NOT EXISTS handled (source TEXT, id TEXT, PRIMARY KEY (source, id));
  CREATE TABLE IF NOT EXISTS ticket (
    ticket_id TEXT PRIMARY KEY, messages INTEGER, last_sender TEXT, last_text TEXT);
`);
const handled = database.prepare("INSERT INTO handled VALUES (?, ?) ON CONFLICT DO NOTHING");
const count = database.prepare(`INSERT INTO ticket (ticket_id, messages) VALUES (?, 1)
  ON CONFLICT (ticket_id) DO UPDATE SET messages = ticket.messages + 1`);
const last = database.prepare(
  "UPDATE ticket SET last_sender = ?, last_text = ? WHERE ticket_id = ?",
);

/** Does the work for one record, unless that was done before. */
function handle(message: KafkaMessage): void {
  const header = (name: string) => message.headers?.[name]?.toString();
  if (header("ce_type") !== TYPE) return; // of another type, that this program does not know
  const { changes } = handled.run(header("ce_source"), header("ce_id"));
  if (changes === 0) return; // it was handled before a crash, or before a replay
  const record: MessageCreated = JSON.parse(message.value!.toString());
  const ticket = message.key!.toString();
  count.run(ticket);
  const { sender_type, text } = record.data;
  if (header("relay_late") === "1") return; // a late message counts, but it is not the last one
  last.run(sender_type ?? null, text ?? null, ticket);
}

/** One transaction: the work, and the ids of the events. */
const handleAll = database.transaction((messages: KafkaMessage[]) => messages.forEach(handle));

const kafka = new Kafka({
  brokers: (process.env.BOOTSTRAP_SERVERS ?? "localhost:9092").split(","),
  logLevel: logLevel.WARN,
});
const consumer = kafka.consumer({
  groupId: process.env.GROUP ?? "tickets-node",
  readUncommitted: false, // not what an aborted transaction has left
  allowAutoTopicCreation: false, // a misspelt name shall not become a topic
  sessionTimeout: 10_000, // after a crash, others get its partitions this soon
  retry: { restartOnFailure: async () => false }, // any error ends the process
});
consumer.on("consumer.crash", () => process.exit(1));
for (const signal of ["SIGTERM", "SIGINT"]) {
  process.once(signal, () => consumer.disconnect().finally(() => process.exit(0)));
}

await consumer.connect();
await consumer.subscribe({
  topic: process.env.TOPIC ?? "feishu.helpdesk.ticket_message",
  fromBeginning: true, // a new group begins with the oldest record
});
await consumer.run({
  autoCommit: false, // a timer does not know what is done
  eachBatch: async ({ batch }: EachBatchPayload) => {
    handleAll(batch.messages);
    const offset = (BigInt(batch.lastOffset()) + 1n).toString();
    const { topic, partition } = batch;
    await consumer.commitOffsets([{ topic, partition, offset }]); // after the work, never before
  },
});

-- The journal: every accepted event, from its arrival until the dedupe window has passed.
-- WAL and application_id are set in journalfile.py, before this runs.

PRAGMA user_version = 4;

-- One row: who this journal is to Kafka.
CREATE TABLE journal (
    -- UUID, made with the file. A replica is its journal: transactional id and group are made of it.
    id TEXT NOT NULL,
    -- The last seq of which an offset under the signature below can speak; NULL while the process
    -- that has stored it runs. Rows beyond it were accepted by processes that have not yet heard from
    -- Kafka (volume restored from a snapshot: the same numbers may have meant other events before).
    trusted_seq INTEGER,
    -- 1 while everything that this journal has published is in the claims store; 0 since it ran alone.
    claims_seeded INTEGER NOT NULL DEFAULT 0,
    -- The last signature that a process of this file has used on Kafka, or was about to; empty: none.
    -- (The default is what the change from version 2 finds: that version wrote down none.)
    signature TEXT NOT NULL DEFAULT 'unwritten',
    -- Whose offset Kafka had when the signature was stored (empty: nobody's); NULL once Kafka has it.
    predecessor TEXT,
    -- The last seq of which that one's offset can speak.
    predecessor_seq INTEGER NOT NULL DEFAULT 0,
    -- Names that Kafka has forgotten: what was pending up to former_seq may be claimed under them.
    former_ids TEXT NOT NULL DEFAULT '',
    former_seq INTEGER NOT NULL DEFAULT 0,
    -- Milliseconds for which relays have had this file open, in all: the time that retention.py counts.
    open_for INTEGER NOT NULL DEFAULT 0,
    -- The first seq that was published unclaimed since claims_seeded is 1; NULL for none.
    unclaimed_from INTEGER,
    -- The replica whose past must be in the claims store before this journal's events are published,
    -- and `open_for` when the wait began; NULL when it is over.
    awaited TEXT NOT NULL DEFAULT '',
    awaited_since INTEGER,
    -- From this seq on each settled event has its row in `lives`; before it are those of version 3.
    lives_from INTEGER NOT NULL DEFAULT 0
) STRICT;

-- When `open_for` was so much, every event up to `seq` had its ending.
CREATE TABLE marks (
    open_for INTEGER PRIMARY KEY,
    seq INTEGER NOT NULL
) STRICT;

CREATE TABLE events (
    -- The order of arrival, which is the order of publication. Never used twice.
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    app TEXT NOT NULL,
    -- header.event_id (schema 2.0), uuid (1.0), or the body's SHA-256 where there is neither.
    event_id TEXT NOT NULL,
    -- Empty when the body names none.
    event_type TEXT NOT NULL,
    transport TEXT NOT NULL,
    -- Unix time in milliseconds.
    received_at INTEGER NOT NULL,
    -- 1 after `relay events replay`: the record says so in a header.
    replayed INTEGER NOT NULL DEFAULT 0,
    -- After `relay events import`: the ids of the journals that the event has passed through,
    -- with a space between them: their claims count as our own.
    origin TEXT,
    -- NULL while pending, then published, duplicate, dead_letter or withheld.
    outcome TEXT,
    -- Why it is a dead letter; too_large and refused are noted while it is pending. Rows
    -- with one of them, or with internal_error, stay until an operator decides.
    reason TEXT,
    -- Unix time in milliseconds.
    settled_at INTEGER,
    -- The decrypted bytes, as Feishu sent them; of an app's ticket without the ticket.
    body BLOB NOT NULL,
    -- The trace that the request was part of, as W3C's `traceparent`; NULL where it named none.
    -- (Behind the body, where the change from version 1 has put it.)
    traceparent TEXT,
    -- Seen and stored are one commit.
    UNIQUE (app, event_id)
) STRICT;

-- What the dispatcher reads; it holds pending rows only, so it stays small.
CREATE INDEX events_pending ON events (seq) WHERE outcome IS NULL;

-- What is known of a settled event beside its body: no more than some 50 bytes, so that whoever
-- looks for a ticket or a rare ending can read all rows of it. Its place in a topic is in the same
-- commit as its settling.
CREATE TABLE lives (
    seq INTEGER PRIMARY KEY,
    kind INTEGER NOT NULL,
    -- As in `events`.
    received_at INTEGER NOT NULL,
    -- Milliseconds later it was known to be on disk, and claimed; NULL if that is not known, or not
    -- so. When it was published is its event's settled_at.
    stored_after INTEGER,
    claimed_after INTEGER,
    -- Of its record in the topic; NULL without one, and where a crash has cost the broker's word.
    "partition" INTEGER,
    "offset" INTEGER,
    -- The ticket's id, else the record's key unless it is the event id; as a number if it is one.
    ticket ANY,
    message_id ANY
) STRICT;

-- Ends that are seldom, one kind after the other.
CREATE INDEX lives_rare ON lives (kind) WHERE kind < 0;

-- What many events have in common.
CREATE TABLE kinds (
    -- Below zero for all ends but `published`.
    kind INTEGER PRIMARY KEY,
    app TEXT NOT NULL,
    -- NULL stands for any, once there are very many.
    event_type TEXT,
    transport TEXT NOT NULL,
    outcome TEXT NOT NULL,
    reason TEXT,
    topic TEXT
) STRICT;

// Keeps, for each ticket, how many messages it has and what was said last; counts none twice.
//
// The work and the event's id are one transaction of the database; only then Kafka is told that
// the records are done. A crash in between brings them once more, and their ids tell what to skip.
// So all processes of a group must use one database: a partition may move to another at any time.
//
// Any error ends the process. Whoever starts it again (systemd, Kubernetes) loses nothing.
package main

//go:generate go tool go-jsonschema --only-models --struct-name-from-title --tags json --package main --output message_created.go ../../docs/schemas/helpdesk.ticket_message.created_v1.v1.json

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"log"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	_ "modernc.org/sqlite"
)

const messageCreated = "com.feishu.helpdesk.ticket_message.created_v1"

const (
	tables = `
		CREATE TABLE IF NOT EXISTS handled (source TEXT, id TEXT, PRIMARY KEY (source, id));
		CREATE TABLE IF NOT EXISTS ticket (
			ticket_id TEXT PRIMARY KEY, messages INTEGER, last_sender TEXT, last_text TEXT);`
	handled = `INSERT INTO handled VALUES (?, ?) ON CONFLICT DO NOTHING`
	count   = `INSERT INTO ticket (ticket_id, messages) VALUES (?, 1)
		ON CONFLICT (ticket_id) DO UPDATE SET messages = ticket.messages + 1`
	last = `UPDATE ticket SET last_sender = ?, last_text = ? WHERE ticket_id = ?`
)

// handle does the work for one record, unless that was done before.
func handle(work *sql.Tx, record *kgo.Record) error {
	headers := map[string]string{}
	for _, header := range record.Headers {
		headers[header.Key] = string(header.Value)
	}
	if headers["ce_type"] != messageCreated {
		return nil // of another type, that this program does not know
	}
	done, err := work.Exec(handled, headers["ce_source"], headers["ce_id"])
	if err != nil {
		return err
	}
	if isNew, err := done.RowsAffected(); err != nil || isNew == 0 {
		return err // it was handled before a crash, or before a replay
	}
	var value HelpdeskTicketMessageCreatedV1
	if err := json.Unmarshal(record.Value, &value); err != nil {
		return err
	}
	ticket := string(record.Key)
	if _, err := work.Exec(count, ticket); err != nil {
		return err
	}
	if headers["relay_late"] != "1" { // a late message counts, but it is not the last one
		_, err = work.Exec(last, value.Data.SenderType, value.Data.Text, ticket)
	}
	return err
}

// handleAll is one transaction: the work, and the ids of the events.
func handleAll(database *sql.DB, records []*kgo.Record) error {
	work, err := database.Begin()
	if err != nil {
		return err
	}
	defer work.Rollback() // does nothing after the commit
	for _, record := range records {
		if err := handle(work, record); err != nil {
			return err
		}
	}
	return work.Commit()
}

// consume runs until the context ends, or something fails.
func consume(ctx context.Context, database *sql.DB, client *kgo.Client) error {
	for {
		fetches := client.PollRecords(ctx, 500)
		if ctx.Err() != nil {
			return nil
		}
		if err := fetches.Err(); err != nil {
			return err
		}
		if err := handleAll(database, fetches.Records()); err != nil {
			return err
		}
		// After the work, never before.
		if err := client.CommitUncommittedOffsets(context.Background()); err != nil {
			return err
		}
		client.AllowRebalance()
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	path := cmp.Or(os.Getenv("DATABASE"), "tickets.db")
	database, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)")
	if err != nil {
		return err
	}
	defer database.Close()
	if _, err := database.Exec(tables); err != nil {
		return err
	}
	client, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(cmp.Or(os.Getenv("BOOTSTRAP_SERVERS"), "localhost:9092"), ",")...),
		kgo.ConsumerGroup(cmp.Or(os.Getenv("GROUP"), "tickets-go")),
		kgo.ConsumeTopics(cmp.Or(os.Getenv("TOPIC"), "feishu.helpdesk.ticket_message")),
		// A new group begins with the oldest record.
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()), // not what an aborted transaction has left
		kgo.DisableAutoCommit(),                      // a timer does not know what is done
		kgo.BlockRebalanceOnPoll(),                   // no partition leaves while its records are handled
		kgo.SessionTimeout(10*time.Second),           // after a crash, others get its partitions this soon
	)
	if err != nil {
		return err
	}
	defer client.CloseAllowingRebalance()
	return consume(ctx, database, client)
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}

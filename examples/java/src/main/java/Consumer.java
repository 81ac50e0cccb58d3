import com.fasterxml.jackson.databind.ObjectMapper;
import feishu.HelpdeskTicketMessageCreatedV1;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Keeps, for each ticket, how many messages it has and what was said last; counts none twice.
 *
 * <p>The work and the event's id are one transaction of the database; only then Kafka is told that
 * the records are done. A crash in between brings them once more, and their ids tell what to skip.
 * So all processes of a group must use one database: a partition may move to another at any time.
 *
 * <p>Any error ends the process. Whoever starts it again (systemd, Kubernetes) loses nothing.
 */
public final class Consumer {
    private static final String TYPE = "com.feishu.helpdesk.ticket_message.created_v1";

    private static final List<String> TABLES = List.of(
        "PRAGMA journal_mode = WAL",
        "CREATE TABLE IF NOT EXISTS handled (source TEXT, id TEXT, PRIMARY KEY (source, id))",
        """
        CREATE TABLE IF NOT EXISTS ticket (
            ticket_id TEXT PRIMARY KEY, messages INTEGER, last_sender TEXT, last_text TEXT)""");
    private static final String HANDLED =
        "INSERT INTO handled VALUES (?, ?) ON CONFLICT DO NOTHING";
    private static final String COUNT = """
        INSERT INTO ticket (ticket_id, messages) VALUES (?, 1)
        ON CONFLICT (ticket_id) DO UPDATE SET messages = ticket.messages + 1""";
    private static final String LAST =
        "UPDATE ticket SET last_sender = ?, last_text = ? WHERE ticket_id = ?";

    private static final Map<String, Object> SETTINGS = Map.of(
        "bootstrap.servers", environment("BOOTSTRAP_SERVERS", "localhost:9092"),
        "group.id", environment("GROUP", "tickets-java"),
        "auto.offset.reset", "earliest", // a new group begins with the oldest record
        "isolation.level", "read_committed", // not what an aborted transaction has left
        "enable.auto.commit", "false", // a timer does not know what is done
        "session.timeout.ms", "10000"); // after a crash, others get its partitions this soon

    private static final ObjectMapper JSON = new ObjectMapper();

    /** Does the work for one record, unless that was done before. */
    private static void handle(Connection database, ConsumerRecord<String, byte[]> record)
            throws Exception {
        if (!TYPE.equals(header(record, "ce_type"))) {
            return; // of another type, that this program does not know
        }
        if (execute(database, HANDLED, header(record, "ce_source"), header(record, "ce_id")) == 0) {
            return; // it was handled before a crash, or before a replay
        }
        var value = JSON.readValue(record.value(), HelpdeskTicketMessageCreatedV1.class);
        var message = value.getData();
        execute(database, COUNT, record.key());
        if ("1".equals(header(record, "relay_late"))) {
            return; // a late message counts, but it is not the last one
        }
        execute(database, LAST, message.getSenderType(), message.getText(), record.key());
    }

    public static void main(String[] arguments) throws Exception {
        var url = "jdbc:sqlite:" + environment("DATABASE", "tickets.db");
        var keys = new StringDeserializer();
        var values = new ByteArrayDeserializer();
        try (var database = DriverManager.getConnection(url);
                var consumer = new KafkaConsumer<>(SETTINGS, keys, values)) {
            stopOnSignal(consumer);
            for (var statement : TABLES) {
                execute(database, statement);
            }
            database.setAutoCommit(false);
            consumer.subscribe(List.of(environment("TOPIC", "feishu.helpdesk.ticket_message")));
            while (true) {
                for (var record : consumer.poll(Duration.ofSeconds(1))) {
                    handle(database, record);
                }
                database.commit(); // one transaction: the work, and the ids of the events
                consumer.commitSync(); // after the work, never before
            }
        } catch (WakeupException stopped) {
            // By SIGTERM or Ctrl-C.
        }
    }

    private static void stopOnSignal(KafkaConsumer<?, ?> consumer) {
        var main = Thread.currentThread();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            consumer.wakeup();
            try {
                main.join();
            } catch (InterruptedException impatient) {
                Thread.currentThread().interrupt();
            }
        }));
    }

    /** Says how many rows a statement has changed. */
    private static int execute(Connection database, String sql, String... arguments)
            throws Exception {
        try (PreparedStatement statement = database.prepareStatement(sql)) {
            for (int number = 0; number < arguments.length; number++) {
                statement.setString(number + 1, arguments[number]);
            }
            return statement.execute() ? 0 : statement.getUpdateCount();
        }
    }

    private static String header(ConsumerRecord<?, ?> record, String name) {
        Header found = record.headers().lastHeader(name);
        return found == null ? null : new String(found.value(), StandardCharsets.UTF_8);
    }

    private static String environment(String name, String otherwise) {
        return System.getenv().getOrDefault(name, otherwise);
    }
}

import java.nio.charset.StandardCharsets;
import java.util.Map;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.connect.cli.ConnectStandalone;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.json.JsonConverter;
import org.apache.kafka.connect.sink.SinkRecord;
import org.apache.kafka.connect.transforms.Transformation;

/**
 * A worker of Kafka Connect, with a transformation that shows the sink what came in, types and all.
 *
 * <p>WORKER CONNECTOR...: files of properties, as the worker of Kafka's distribution takes them.
 */
public final class Client implements Transformation<SinkRecord> {
    private final JsonConverter converter = new JsonConverter();

    public static void main(String[] arguments) {
        ConnectStandalone.main(arguments);
    }

    @Override
    public void configure(Map<String, ?> ignored) {
        converter.configure(Map.of("schemas.enable", true), false);
    }

    /** Gives a text: the key and the value as JSON, each with its schema, a tab between them. */
    @Override
    public SinkRecord apply(SinkRecord record) {
        String key = written(record.topic(), record.keySchema(), record.key());
        String value = written(record.topic(), record.valueSchema(), record.value());
        return record.newRecord(
                record.topic(),
                record.kafkaPartition(),
                record.keySchema(),
                record.key(),
                Schema.STRING_SCHEMA,
                key + "\t" + value,
                record.timestamp());
    }

    private String written(String topic, Schema schema, Object value) {
        return new String(converter.fromConnectData(topic, schema, value), StandardCharsets.UTF_8);
    }

    @Override
    public ConfigDef config() {
        return new ConfigDef();
    }

    @Override
    public void close() {
        converter.close();
    }
}

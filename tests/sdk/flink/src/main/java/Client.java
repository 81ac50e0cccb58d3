import java.nio.charset.StandardCharsets;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.apache.calcite.sql.SqlDialect;
import org.apache.calcite.sql.SqlNode;
import org.apache.calcite.sql.dialect.CalciteSqlDialect;
import org.apache.calcite.avatica.util.Casing;
import org.apache.calcite.avatica.util.Quoting;
import org.apache.calcite.sql.parser.SqlParser;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.formats.common.TimestampFormat;
import org.apache.flink.formats.json.AbstractJsonDeserializationSchema;
import org.apache.flink.formats.json.JsonFormatOptions.MapNullKeyMode;
import org.apache.flink.formats.json.JsonParserRowDataDeserializationSchema;
import org.apache.flink.formats.json.JsonRowDataDeserializationSchema;
import org.apache.flink.formats.json.JsonRowDataSerializationSchema;
import org.apache.flink.sql.parser.ddl.SqlTableColumn;
import org.apache.flink.sql.parser.ddl.SqlTableColumn.SqlRegularColumn;
import org.apache.flink.sql.parser.ddl.table.SqlCreateTable;
import org.apache.flink.sql.parser.impl.FlinkSqlParserImpl;
import org.apache.flink.sql.parser.validate.FlinkSqlConformance;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.types.logical.LogicalType;
import org.apache.flink.table.types.logical.RowType;
import org.apache.flink.table.types.logical.RowType.RowField;
import org.apache.flink.table.types.logical.utils.LogicalTypeParser;
import org.apache.flink.util.Collector;

/**
 * Reads a CREATE TABLE as Flink SQL does, and records as the table's format does.
 *
 * <p>FOLDER: of each TABLE.sql of it, and the records of TABLE.jsonl, writes TABLE.out: the table's
 * name, each column that is no value's, each option, then each record as a row of the table, as JSON,
 * once for each of the format's two readers.
 */
public final class Client {
    private static final SqlDialect DIALECT =
            new SqlDialect(CalciteSqlDialect.DEFAULT_CONTEXT.withIdentifierQuoteString("`"));

    private final List<String> out = new ArrayList<>();

    public static void main(String[] arguments) throws Exception {
        Path folder = Path.of(arguments[0]);
        try (DirectoryStream<Path> statements = Files.newDirectoryStream(folder, "*.sql")) {
            for (Path statement : statements) {
                String table = statement.getFileName().toString().replace(".sql", "");
                Client client = new Client();
                client.read(statement, folder.resolve(table + ".jsonl"));
                Files.write(folder.resolve(table + ".out"), client.out);
            }
        }
    }

    private void read(Path statement, Path recorded) throws Exception {
        SqlCreateTable table = parse(Files.readString(statement));
        table.validate();
        out.add("table " + table.getName());
        RowType row = columns(table);
        table.getProperties().forEach((name, said) -> out.add("option " + name + "=" + said));
        TypeInformation<RowData> type = TypeInformation.of(RowData.class);
        TimestampFormat times = TimestampFormat.ISO_8601;
        List<String> records = Files.readAllLines(recorded);
        rows(row, records, new JsonRowDataDeserializationSchema(row, type, false, false, times));
        rows(row, records, new JsonParserRowDataDeserializationSchema(row, type, false, false, times));
    }

    private static SqlCreateTable parse(String statement) throws Exception {
        SqlParser.Config config = SqlParser.config()
                .withParserFactory(FlinkSqlParserImpl.FACTORY)
                .withConformance(FlinkSqlConformance.DEFAULT)
                .withQuoting(Quoting.BACK_TICK)
                .withUnquotedCasing(Casing.UNCHANGED)
                .withQuotedCasing(Casing.UNCHANGED)
                .withIdentifierMaxLength(256);
        return (SqlCreateTable) SqlParser.create(statement, config).parseStmtList().get(0);
    }

    /** Gives the type of the record's value; says which columns are read from elsewhere. */
    private RowType columns(SqlCreateTable table) {
        List<RowField> fields = new ArrayList<>();
        for (SqlNode node : table.getColumnList()) {
            String name = ((SqlTableColumn) node).getName().getSimple();
            if (node instanceof SqlRegularColumn column) {
                String written = column.getType().toSqlString(DIALECT).getSql();
                LogicalType type =
                        LogicalTypeParser.parse(written, Client.class.getClassLoader());
                fields.add(new RowField(name, type));
            } else {
                out.add("metadata " + name);
            }
        }
        return new RowType(false, fields);
    }

    private void rows(
            RowType row, List<String> records, AbstractJsonDeserializationSchema reader)
            throws Exception {
        JsonRowDataSerializationSchema writer = new JsonRowDataSerializationSchema(
                row, TimestampFormat.ISO_8601, MapNullKeyMode.FAIL, "", true, false);
        Rows read = new Rows();
        reader.open(null);
        writer.open(null);
        for (String record : records) {
            reader.deserialize(record.getBytes(StandardCharsets.UTF_8), read);
        }
        for (RowData made : read.rows) {
            byte[] written = writer.serialize(made);
            out.add("row " + new String(written, StandardCharsets.UTF_8));
        }
    }

    private static final class Rows implements Collector<RowData> {
        private final List<RowData> rows = new ArrayList<>();

        @Override
        public void collect(RowData row) {
            rows.add(row);
        }

        @Override
        public void close() {}
    }
}

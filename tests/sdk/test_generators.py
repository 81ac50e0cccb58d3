"""What code generators make of the schemas parses every record, and has the message's text."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator  # type: ignore[import-untyped]

from relay.contract import schemas
from relay.contract.normalize import EVENT_TYPES, Router
from relay.settings.topics import OTHER
from tests.fakes import MESSAGE_CREATED
from tests.sdk.records import Events
from tests.sdk.toolchains import EXAMPLES, MODELS_NODE, MODELS_PYTHON, Toolchain

#: Installing the generators for the first time takes a minute.
pytestmark = pytest.mark.timeout(600)

#: Of each of the four types and of `other`: ten thousand in all.
COUNT = 2_000
TYPES = (*EVENT_TYPES, OTHER)
_TSCONFIG = {
    "compilerOptions": {
        "lib": ["es2022"],
        "module": "esnext",
        "moduleResolution": "bundler",
        "noEmit": True,
        "skipLibCheck": True,
        "strict": True,
        "target": "es2022",
        "types": [],
    }
}


def there(*tools: str) -> None:
    """Skip at home what is not installed; CI has everything."""
    for tool in tools:
        if shutil.which(tool) is None:
            assert not os.environ.get("CI"), f"CI has no {tool}"
            pytest.skip(f"{tool} is not installed")


def built(toolchain: Toolchain) -> list[str]:
    """Give the generator's command."""
    there(*toolchain.tools)
    return toolchain.command()


def run(*command: str | Path, cwd: Path, stdin: bytes = b"") -> bytes:
    done = subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()[-3000:]
    return done.stdout


@pytest.fixture(params=TYPES)
def event_type(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def schema(event_type: str, tmp_path: Path) -> Path:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schemas.schema(event_type)))
    return path


@pytest.fixture
def values(event_type: str) -> list[bytes]:
    return Events(event_type, seed=14).values(COUNT)


def texts(values: list[bytes]) -> list[Any]:
    return [json.loads(value)["data"].get("text") for value in values]


def test_python_classes_parse_every_record(
    event_type: str, schema: Path, values: list[bytes], tmp_path: Path
) -> None:
    """datamodel-code-generator makes pydantic models of the schema."""
    records = tmp_path / "records.jsonl"
    records.write_bytes(b"\n".join(values))
    printed = run(*built(MODELS_PYTHON), schema, records, tmp_path, cwd=tmp_path)
    report = json.loads(printed)
    assert report["parsed"] == COUNT
    assert report["texts"] == texts(values)
    if event_type == MESSAGE_CREATED:
        assert report["types"]["Message.text"] == "str | None"
        assert report["types"]["Person.email"] == "str | None"
        assert report["types"]["CustomizedField.value"] == "str | list[str] | None"
        assert report["types"]["Ticket.comments"] == "list[made.Comment] | None"


#: Lines that compile only if the types are what they should be.
_REFUSED = """
// @ts-expect-error
export const refused: Record = { ...records[0], ticket_id: 7 };
"""
_USE = """
const text: string | null | undefined = records[0].data.text;
const name: string | null | undefined = records[0].data.ticket?.agent_owner?.name;
// @ts-expect-error
const number: number | null | undefined = records[0].data.text;
"""


def test_typescript_types_take_every_record(
    event_type: str, schema: Path, values: list[bytes], tmp_path: Path
) -> None:
    """json-schema-to-typescript makes interfaces; the compiler checks each record by them."""
    command = built(MODELS_NODE)
    (tmp_path / "made.ts").write_bytes(run(*command, "typescript", schema, cwd=tmp_path))
    parts = [values[start : start + 100] for start in range(0, COUNT, 100)]
    for number, part in enumerate(parts):
        lines = ["import type { Record } from './made.js';", "export const records: Record[] = ["]
        lines += [f"{value.decode()}," for value in part]
        use = _REFUSED + (_USE if event_type == MESSAGE_CREATED else "")
        (tmp_path / f"part{number}.ts").write_text("\n".join([*lines, "];", use]))
    compiler = Path(command[1]).parent / "node_modules" / "typescript" / "bin" / "tsc"
    (tmp_path / "tsconfig.json").write_text(json.dumps(_TSCONFIG))
    run("node", compiler, "--project", ".", cwd=tmp_path)


_GO = """package main

import ("bufio"; "encoding/json"; "fmt"; "os"; "strings")

func main() {
	lines := bufio.NewReaderSize(os.Stdin, 1<<20)
	for count := 0; ; count++ {
		line, err := lines.ReadString('\\n')
		if strings.TrimSpace(line) != "" {
			record, err := UnmarshalRecord([]byte(line))
			if err != nil { panic(fmt.Sprint(count, err, line)) }
			printed, _ := json.Marshal(TEXT)
			fmt.Println(string(printed))
		}
		if err != nil { return }
	}
}
"""


def test_go_structs_parse_every_record(
    event_type: str, schema: Path, values: list[bytes], tmp_path: Path
) -> None:
    """Quicktype makes structs; encoding/json fills them."""
    there("go")
    (tmp_path / "made.go").write_bytes(run(*built(MODELS_NODE), "go", schema, cwd=tmp_path))
    text = "record.Data.Text" if event_type == MESSAGE_CREATED else "record.TicketID"
    (tmp_path / "main.go").write_text(_GO.replace("TEXT", text))
    (tmp_path / "go.mod").write_text("module made\n\ngo 1.18\n")
    run("go", "build", "-o", "parse", ".", cwd=tmp_path)
    printed = run(tmp_path / "parse", cwd=tmp_path, stdin=b"\n".join(values)).splitlines()
    found = [json.loads(line) for line in printed]
    if event_type == MESSAGE_CREATED:
        assert found == texts(values)
    assert len(found) == COUNT


_JAVA = """package io.quicktype;

import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.file.*;

class Main {
    public static void main(String[] paths) throws Exception {
        var json = new ObjectMapper();
        for (var line : Files.readAllLines(Path.of(paths[0]))) {
            System.out.println(json.writeValueAsString(Converter.fromJsonString(line).TEXT));
        }
    }
}
"""


def test_java_classes_parse_every_record(
    event_type: str, schema: Path, values: list[bytes], tmp_path: Path
) -> None:
    """Quicktype makes classes for Jackson, which the example in Java has."""
    there("java", "javac", "mvn")
    made = run(*built(MODELS_NODE), "java", schema, cwd=tmp_path).decode()
    _, *parts = re.split(r"^// (\w+\.java)$", made, flags=re.MULTILINE)
    for name, code in zip(parts[::2], parts[1::2], strict=True):
        (tmp_path / name).write_text(code)
    text = "getData().getText()" if event_type == MESSAGE_CREATED else "getTicketID()"
    (tmp_path / "Main.java").write_text(_JAVA.replace("TEXT", text))
    (tmp_path / "records.jsonl").write_bytes(b"\n".join(values))
    java = next(one for one in EXAMPLES if one.language == "java").command()
    classpath = java[java.index("-cp") + 1]
    compiler = ("javac", "-J-XX:TieredStopAtLevel=1", "-proc:none", "-nowarn")
    run(*compiler, "-cp", classpath, "-d", ".", *tmp_path.glob("*.java"), cwd=tmp_path)
    main = ("-cp", f"{classpath}:.", "io.quicktype.Main", "records.jsonl")
    machine = java[: java.index("-cp")]
    printed = run(*machine, "-Dstdout.encoding=UTF-8", *main, cwd=tmp_path)
    found = [json.loads(line) for line in printed.splitlines()]
    if event_type == MESSAGE_CREATED:
        assert found == texts(values)
    assert len(found) == COUNT


def test_asyncapi_document_is_one() -> None:
    """By the meta-schema that AsyncAPI publishes for this version, also with other topics."""
    command = built(MODELS_NODE)
    specs = Path(command[1]).parent / "node_modules" / "@asyncapi" / "specs" / "schemas"
    validator = Draft7Validator(json.loads((specs / f"{schemas.ASYNCAPI}.json").read_bytes()))
    for router in (Router("feishu.", {}), Router("", {OTHER: "a-b"})):
        document = schemas.asyncapi(router)
        validator.validate(document)
        assert not validator.is_valid(document | {"asyncapi": "3.0.0"})
        assert not validator.is_valid(document | {"servers": {"kafka": {"protocol": "kafka"}}})

"""What `relay schema --as flink` and `--as sql` print is taken, and relay's records by that."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relay.contract.normalize import Router
from relay.settings.topics import OTHER
from tests.sdk.kit import COUNT, TYPES, blocks, built, expected, flattened, printed, pruned, values
from tests.sdk.toolchains import FLINK, POSTGRES, Toolchain

#: Installing them for the first time takes a minute.
pytestmark = pytest.mark.timeout(600)


def outputs(
    toolchain: Toolchain, language: str, folder: Path, write: Callable[[str], list[Any]]
) -> dict[str, list[str]]:
    """Let a program read each statement and the lines for its table; give what it wrote."""
    command = built(toolchain)
    for event_type in TYPES:
        table = folder / named(event_type)
        table.with_suffix(".sql").write_text(printed(event_type, language))
        lines = [json.dumps(one, ensure_ascii=False) for one in write(event_type)]
        table.with_suffix(".jsonl").write_text("\n".join(lines))
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    # Not by splitlines: records have characters that Python takes for the end of a line.
    return {path.stem: path.read_text().rstrip("\n").split("\n") for path in folder.glob("*.out")}


def named(event_type: str) -> str:
    """Give the name of a type's table."""
    return event_type.replace(".", "_")


def read(row: Any, *columns: str) -> Any:
    """Read the JSON in the text columns of those names."""
    if isinstance(row, list):
        return [read(one, *columns) for one in row]
    if not isinstance(row, dict):
        return row
    return {
        name: json.loads(member)
        if name in columns and isinstance(member, str) and member[:1] in {"{", "["}
        else read(member, *columns)
        for name, member in row.items()
    }


def test_flink_reads_every_record_by_its_statement(tmp_path: Path) -> None:
    """Its SQL parser takes the statement; both readers of its JSON format give every field."""
    made = outputs(FLINK, "flink", tmp_path, values)
    for event_type in TYPES:
        lines = made[named(event_type)]
        assert lines[0] == f"table {named(event_type)}"
        assert "option properties.isolation.level=read_committed" in lines
        assert f"option topic={Router('feishu.', {}).topic(event_type)}" in lines
        assert "metadata headers" in lines
        rows = [json.loads(line.removeprefix("row ")) for line in lines if line[:4] == "row "]
        texts = {"unexpected", "value"} | ({"data"} if event_type == OTHER else set())
        found = [pruned(read(row, *texts)) for row in rows]
        assert found == [pruned(one) for one in expected(event_type)] * 2


def flat(event_type: str) -> list[Any]:
    return [flattened(one, event_type) for one in expected(event_type)]


def latest() -> dict[str, Any]:
    """Give the newest state of each ticket, by the same rule as the recipe, in Python."""
    states: dict[str, Any] = {}
    for event_type in ("helpdesk.ticket.created_v1", "helpdesk.ticket.updated_v1"):
        for value in values(event_type):
            data = value["data"] if "created" in event_type else value["data"].get("object") or {}
            event = value["event"]
            rank = (event["created_at"] or "", event["received_at"])
            key = f"{event['app_id']} {value['ticket_id']}"
            if value["ticket_id"] is not None and rank > states.get(key, (("", ""),))[0]:
                states[key] = (rank, data.get("status"))
    return {key: status for key, (_, status) in states.items()}


def test_postgresql_takes_every_record_once(tmp_path: Path) -> None:
    """Flattened, each value goes into its table, and not twice; it comes out as it went in.

    And the recipe for the latest state of each ticket gives just that.
    """
    (recipe,) = blocks("sql")
    (tmp_path / "tickets.sql").write_text(recipe)
    made = outputs(POSTGRES, "sql", tmp_path, flat)
    for event_type in TYPES:
        counted, *lines = made[named(event_type)]
        assert counted == f"{COUNT + 1} 0"
        rows = [pruned(json.loads(line.replace("+00:00", "Z"))) for line in lines]
        assert rows == [pruned(one) for one in flat(event_type)]
    tickets = [json.loads(line) for line in made["tickets"][1:]]
    found = {f"{one['event_app_id']} {one['ticket_id']}": one["status"] for one in tickets}
    assert found == latest()
    assert len(found) > 2

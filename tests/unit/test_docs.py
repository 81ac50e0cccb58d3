"""The papers say what the code does: every name that the code knows, and none besides."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from relay import settings
from relay.cli.main import app
from relay.contract.normalize import EVENT_TYPES, Router, dead_letter
from relay.contract.rules import helpdesk
from relay.egress.kafka.client import LEAST_VERSION
from relay.errors import STATUS
from relay.events import DeadLetterReason, Outcome, StoredEvent, Transport
from relay.journal import file
from relay.observe.metrics import Metrics
from tests import kafka_server

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CONFIGURATION, OPERATIONS, CONTRACT, ARCHITECTURE = (
    (ROOT / "docs" / f"{name}.md").read_text()
    for name in ("configuration", "operations", "contract", "architecture")
)
PAPERS = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("bench/*.md"),
        *ROOT.glob("examples/*.md"),
    ]
)
#: Variables that are no settings: the file's name, a command's, and what the tests read.
OTHER_VARIABLES = {
    "RELAY_CONFIG",
    "RELAY_SECRETS_DIR",
    "RELAY_REGISTRY_USER",
    "RELAY_REGISTRY_PASSWORD",
    "RELAY_TEST_KAFKA",
    "RELAY_TEST_KAFKA_VERSION",
    "RELAY_SOAK_KILLS",
}
#: Variables that the docs show as mistakes.
MISTAKES = {
    "RELAY_APPS__BILLING",
    "RELAY_KAFKA__COLOUR",
    "RELAY_KAFFKA__PARTITIONS",
    "RELAY_WEBHOOK",
}


def leaves(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Give the path of each setting; an app's stands below `<name>`."""
    for name, field in model.model_fields.items():
        if (
            field.annotation is not None
            and field.annotation == dict[settings.AppName, settings.App]
        ):
            yield from leaves(settings.App, (*path, name, "<name>"))
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, (*path, name))
        else:
            yield (*path, name)


SETTINGS = {
    ".".join(path): "RELAY_" + "__".join(path).upper() for path in leaves(settings.Settings)
}
SECRETS = {name for name in SETTINGS.values() if name.lower().endswith(settings._SECRETS)}


def rows(paper: str) -> Iterator[list[str]]:
    """Give the cells of each row of each table."""
    for line in paper.splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in line.strip("| ").split(" | ")]


def blocks(paper: str, language: str) -> list[str]:
    """Give the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", paper, re.MULTILINE | re.DOTALL)


def slugs(paper: str) -> set[str]:
    """Give the anchors that a paper's headings make."""
    without_code = re.sub(r"^```.*?^```", "", paper, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", without_code, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands() -> dict[str, Any]:
    """Give each command by its words: `events list` → click's command."""

    def walk(command: Any, words: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, (*words, name))
        if not hasattr(command, "commands"):
            yield " ".join(words), command

    return dict(walk(typer.main.get_command(app), ()))


def log_events() -> dict[str, set[str]]:
    """Give each event that the code logs, with its fields."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "relay").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                found |= log_event(node)
    return found


def log_event(call: ast.Call) -> dict[str, set[str]]:
    """Give the event that a call logs, if it logs one."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    texts = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
    if not texts or not isinstance(texts[0], str):
        return {}
    if name in {"debug", "info", "warning", "error", "exception", "critical"}:
        return {texts[0]: {keyword.arg or "" for keyword in call.keywords}}
    if name in {"failing", "_hold"}:
        return {texts[0]: {"error"}}
    return {texts[0]: set()} if name == "Changes" else {}


def test_every_setting_has_a_row() -> None:
    """With both of its names; and no row is about a setting that there is not."""
    documented = {
        cells[0].strip("`"): cells[1].strip("`")
        for cells in rows(CONFIGURATION)
        if len(cells) == 4 and cells[1].startswith("`RELAY_")
    }
    assert documented == SETTINGS


@pytest.mark.parametrize("setting", SETTINGS)
def test_documented_default_is_the_default(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the row says, given as a value, changes nothing; words mean that there is no value."""
    monkeypatch.setenv("RELAY_APPS__DEFAULT__ENCRYPT_KEY", "k")
    monkeypatch.setenv("RELAY_KAFKA__BOOTSTRAP_SERVERS", "b:1")
    default = settings.load()
    cell = next(cells[2] for cells in rows(CONFIGURATION) if cells[0] == f"`{setting}`")
    if value := re.fullmatch("`(.+?)`", cell):
        monkeypatch.setenv(SETTINGS[setting].replace("<NAME>", "DEFAULT"), value[1])
        assert settings.load() == default
    elif not setting.startswith("apps."):
        actual: Any = default
        for name in setting.split("."):
            actual = getattr(actual, name)
        actual = actual.get_secret_value() if hasattr(actual, "get_secret_value") else actual
        assert not actual or cell == "-"


def test_every_secret_may_come_from_a_file() -> None:
    documented = {cells[0].strip("`") for cells in rows(CONFIGURATION) if "_FILE`" in cells[0]}
    assert documented == {f"{name}_FILE" for name in SECRETS}


def test_every_default_topic_is_named() -> None:
    """In the table of topics, and with its prefix in the contract."""
    router = Router("", {})
    named = {cells[0].strip("`"): cells[1].strip("`") for cells in rows(CONFIGURATION)}
    for event_type in (*EVENT_TYPES, "other"):
        assert named[event_type] == router.topic(event_type)
    assert named["dead_letter"] == router.dead_letter
    for topic in router.topics:
        assert f"`feishu.{topic}`" in CONTRACT
        assert f"`feishu.{topic}`" in README


@pytest.mark.parametrize("paper", PAPERS, ids=lambda path: path.name)
def test_every_variable_is_a_setting(paper: Path) -> None:
    known = set(SETTINGS.values()) | {f"{name}_FILE" for name in SECRETS} | OTHER_VARIABLES
    for found in re.findall(r"RELAY_[A-Z0-9_<>]*[A-Z0-9>]", paper.read_text()):
        variable = re.sub("RELAY_APPS__[A-Z]+__", "RELAY_APPS__<NAME>__", found)
        assert variable in known | MISTAKES, found


EXAMPLES = [
    pytest.param(example, id=f"{paper.name}-{number}")
    for paper in PAPERS
    for number, example in enumerate(blocks(paper.read_text(), "toml"), start=1)
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_toml_example_is_usable(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it stands, with the secrets that the papers put into the environment."""
    monkeypatch.setenv("RELAY_APPS__DEFAULT__ENCRYPT_KEY", "k")
    monkeypatch.setenv("RELAY_KAFKA__SASL_PASSWORD", "p")
    monkeypatch.setenv("RELAY_PRIVACY__SALT", "0123456789abcdef0123456789abcdef")
    path = tmp_path / "relay.toml"
    path.write_text(example)
    assert settings.load(path).kafka.bootstrap_servers.startswith("kafka-1:")


def test_every_metric_is_explained() -> None:
    """In a row of its own; and no metric is named that there is not."""
    metrics = set(re.findall(r"^# HELP (\S+)", Metrics().exposition().decode(), re.MULTILINE))
    documented = {cells[0].strip("`") for cells in rows(OPERATIONS) if "`relay_" in cells[0]}
    assert documented == metrics
    record = dead_letter(_any_event(), Router("", {}), DeadLetterReason.TOO_LARGE, keep_value=False)
    known = metrics | {name for name, _ in record.headers} | {"relay_replayed", "relay_journal"}
    known |= {"relay_dedupe", "relay_backfill", "relay_late", "relay_message_id"}
    known |= {f"{name}_bucket" for name in metrics}
    for paper in (README, OPERATIONS, ARCHITECTURE, CONTRACT, CONFIGURATION):
        assert set(re.findall(r"\brelay_[a-z_]+", paper)) <= known


def _any_event() -> StoredEvent:
    return StoredEvent(
        seq=1,
        app="default",
        transport=Transport.WEBHOOK,
        received_at=0,
        event_id="e-1",
        event_type="",
        body=b"[]",
    )


def test_every_command_and_option_is_explained() -> None:
    """A heading for each command, and its options somewhere; a line in the README."""
    headings = re.findall(r"^### `relay (.+)`$", OPERATIONS, re.MULTILINE)
    assert set(headings) == set(commands())
    for words, command in commands().items():
        assert f"`relay {words}" in README
        for parameter in command.params:
            for option in parameter.opts:
                assert not option.startswith("--") or f"`{option}" in OPERATIONS, option


def test_every_command_shown_exists() -> None:
    for paper in PAPERS:
        for block in blocks(paper.read_text(), "(?:sh|console)"):
            for words in re.findall(r"^(?:\$ )?relay ((?:[a-z]+ ?)+)", block, re.MULTILINE):
                command = " ".join(words.split()[:2])
                assert command in commands() or command.split()[0] in commands(), words


def test_every_make_target_shown_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z]+)", README, re.MULTILINE)) <= targets


def test_every_log_event_is_explained() -> None:
    """With its fields; and no event is explained that is never logged."""
    levels = {"info", "warning", "error"}
    documented = {
        cells[0].strip("`"): set(re.findall("`([a-z_]+)`", cells[2]))
        for cells in rows(OPERATIONS)
        if len(cells) == 4 and cells[1] in levels
    }
    assert documented == log_events()


def test_every_refusal_is_explained() -> None:
    """With its status."""
    documented = {
        (reason, int(cells[0]))
        for cells in rows(OPERATIONS)
        if cells[0].isdecimal() and len(cells) == 3
        for reason in re.findall("`([a-z_]+)`", cells[1])
    }
    assert documented == {(reason.value, int(status)) for reason, status in STATUS.items()}


@pytest.mark.parametrize("reason", DeadLetterReason)
def test_every_reason_of_dead_letters_is_explained(reason: DeadLetterReason) -> None:
    assert any(cells[0] == f"`{reason}`" for cells in rows(CONTRACT))
    assert f"`{reason}`" in OPERATIONS


@pytest.mark.parametrize("outcome", Outcome)
def test_every_outcome_is_explained(outcome: Outcome) -> None:
    assert f"`{outcome}`" in OPERATIONS


def test_every_header_is_explained() -> None:
    """Those of an event, as the golden pairs have them, and those of a dead letter."""
    pairs = (ROOT / "tests" / "unit" / "contract").glob("*.output.json")
    names = {name for pair in pairs for name in json.loads(pair.read_text())["headers"]}
    record = dead_letter(_any_event(), Router("", {}), DeadLetterReason.TOO_LARGE, keep_value=False)
    names |= {name for name, _ in record.headers} | {
        "relay_replayed",
        "relay_dedupe",
        "relay_backfill",
        "relay_late",
        "relay_message_id",
    }
    assert names <= {cells[0].strip("`") for cells in rows(CONTRACT)}


def test_every_field_with_a_rule_is_named() -> None:
    """And each name that a code can have, with the code."""
    tables = [known.fields for known in EVENT_TYPES.values() if known.title != "TicketUpdate"]
    for name in {name for table in tables for name in table} - {"ticket", "content"}:
        assert f"`{name}`" in CONTRACT
    enums = (helpdesk.STATUS, helpdesk.SERVED_BY, helpdesk.SENDER, helpdesk.SCORE)
    for names in (*enums, helpdesk.SOLVE, helpdesk.CHANNEL):
        for code, name in names.items():
            assert f"{code} `{name}`" in CONTRACT


def test_examples_of_the_contract_are_golden_pairs() -> None:
    """Each shows an input and its output, and no type with rules is without one."""
    folder = ROOT / "tests" / "unit" / "contract"
    golden = []
    for path in folder.glob("*.input.json"):
        output = path.with_name(path.name.replace(".input.", ".output."))
        golden.append((json.loads(path.read_text()), json.loads(output.read_text())))
    shown = re.findall(
        r"^Sent:\n\n```json\n(.*?)^```\n\nRecord:\n\n```json\n(.*?)^```",
        CONTRACT,
        re.MULTILINE | re.DOTALL,
    )
    pairs = [(json.loads(sent), json.loads(record)) for sent, record in shown]
    assert all(pair in golden for pair in pairs)
    assert set(EVENT_TYPES) <= {sent["header"]["event_type"] for sent, _ in pairs}


@pytest.mark.parametrize("paper", PAPERS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(paper: Path) -> None:
    """To a file of the repository, and to a heading in it."""
    for target in re.findall(r"\]\(([^)]+)\)", paper.read_text()):
        if re.match("https?://", target):
            continue
        name, _, anchor = target.partition("#")
        path = (paper.parent / name).resolve() if name else paper
        assert path.exists(), target
        assert not anchor or anchor in slugs(path.read_text()), target


@pytest.mark.parametrize("paper", PAPERS, ids=lambda path: path.name)
def test_every_test_that_is_named_exists(paper: Path) -> None:
    """A promise whose proof has another name by now is a promise without a proof."""
    text = paper.read_text()
    for name in re.findall(r"`((?:tests|bench|relay|docs)/[\w./]+\.\w+)`", text):
        assert (ROOT / name).exists(), name
    code = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for name in re.findall(r"`(test_\w+)`", text):
        assert f"def {name}(" in code, name


SECURITY = (ROOT / "docs" / "security.md").read_text()


def proofs(text: str) -> list[tuple[str, list[str]]]:
    """Give each file of tests that is named, with the tests of it that are named behind."""
    parts = re.split(r"`(tests/[\w/]+\.py)`", text)
    return [
        (file, re.findall(r"`(test_\w+)`", behind))
        for file, behind in zip(parts[1::2], parts[2::2], strict=True)
    ]


@pytest.mark.parametrize(
    "row", [cells for cells in rows(SECURITY) if len(cells) == 3 and cells[0] != "they try"]
)
def test_every_threat_has_a_test(row: list[str]) -> None:
    """By its name: a file alone shows nothing."""
    found = proofs(row[2])
    assert found
    assert all(names for _, names in found)


def test_every_section_on_security_has_a_test() -> None:
    for section in re.split(r"^## ", SECURITY, flags=re.MULTILINE)[1:]:
        assert all(names for _, names in proofs(section)), section.splitlines()[0]
        assert proofs(section), section.splitlines()[0]


@pytest.mark.parametrize("paper", PAPERS, ids=lambda path: path.name)
def test_every_test_is_where_the_paper_says(paper: Path) -> None:
    """`file` (`test`, `test`): each is in that file."""
    pattern = r"`(tests/[\w/]+\.py)`(?:,\s+|\s+\()((?:`test_\w+`(?:,\s+)?)+)"
    for place, names in re.findall(pattern, paper.read_text()):
        code = (ROOT / place).read_text()
        for name in re.findall(r"`(\w+)`", names):
            assert f"def {name}(" in code, (place, name)


def test_chart_knows_every_setting() -> None:
    """Its schema refuses other names in `settings`: `make chart` after a change of them."""
    command = [sys.executable, str(ROOT / "deploy" / "chart.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_recovery_of_a_journal_names_its_marks() -> None:
    """What `.dump` leaves out stands in the command that puts it back."""
    assert f"application_id = {file.APPLICATION_ID};" in OPERATIONS
    assert f"user_version = {file.SCHEMA_VERSION};" in OPERATIONS


def test_readme_says_which_kafka() -> None:
    """The least that relay checks for, and the series that the tests run on."""
    series = [version.rpartition(".")[0] for version in (kafka_server.OLDEST, kafka_server.NEWEST)]
    assert f"It needs Kafka {LEAST_VERSION} or newer" in README
    assert f"the tests run on {' and '.join(series)}" in README

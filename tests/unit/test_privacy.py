"""What an operator keeps from consumers is in no record, whatever Feishu sends in its place."""

import asyncio
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from pydantic import SecretStr, ValidationError
from typer.testing import CliRunner

from relay import settings
from relay.cli.main import app
from relay.contract import glossary, schemas
from relay.contract.normalize import EVENT_TYPES, Router, normalize
from relay.contract.rules.privacy import Guard
from relay.contract.rules.table import Rule, shapes
from relay.events import Record, StoredEvent, Transport
from relay.settings import Privacy
from relay.settings import privacy as names
from tests.fakes import MESSAGE_CREATED, as_json, event, journal_at, payload
from tests.unit.test_settings import LEAST, SECRET, mistakes

CREATED, UPDATED = "helpdesk.ticket.created_v1", "helpdesk.ticket.updated_v1"
SALT = "0123456789abcdef0123456789abcdef"
#: Every field that Feishu documents, by type and path.
DOCUMENTED: dict[str, dict[str, str]] = json.loads(
    (Path(__file__).parent / "feishu-fields.json").read_bytes()
)


def router(drop: tuple[str, ...] = (), hashed: tuple[str, ...] = ()) -> Router:
    asked = Privacy(drop=drop, hash=hashed, salt=SecretStr(SALT))
    return Router("feishu.", {}, None, Guard(asked.drop, asked.hash, asked.key))


def record(
    event_type: str, event: dict[str, Any], made_by: Router, *, schema: str = "2.0"
) -> Record:
    """Give the record of an event, in either of Feishu's schemas."""
    body: dict[str, Any] = {"header": {"event_id": "e", "event_type": event_type}, "event": event}
    if schema == "1.0":
        body = {"uuid": "e", "ts": "1.5", "event": {"type": event_type, **event}}
    stored = StoredEvent(
        seq=1,
        app="default",
        transport=Transport.WEBHOOK,
        received_at=1,
        event_id="e",
        event_type=event_type,
        body=json.dumps(body).encode(),
    )
    return normalize(stored, made_by)


def value_of(event_type: str, event: dict[str, Any], made_by: Router) -> Any:
    """Give the value of an event's record, which is as its schema says."""
    value = json.loads(record(event_type, event, made_by).value or b"")
    Draft202012Validator(schemas.schema(event_type, made_by)).validate(value)
    return value


def hashed(text: str) -> str:
    return hmac.new(SALT.encode(), text.encode(), hashlib.sha256).hexdigest()


PERSON = {"id": {"open_id": "ou_1", "union_id": "on_1"}, "name": "Han Meimei", "email": "h@x.cn"}


def test_dropped_field_is_in_no_place() -> None:
    """A person alone, in a list, in the ticket as it was, in one that stands for a list."""
    event = {
        "object": {"ticket_id": "7", "guest": PERSON, "agents": [PERSON, PERSON]},
        "old_object": {"collaborators": PERSON, "closed_by": PERSON},
    }
    kept = {name: value for name, value in PERSON.items() if name != "email"}
    assert value_of(UPDATED, event, router(drop=("email",)))["data"] == {
        "object": {"ticket_id": "7", "guest": kept, "agents": [kept, kept]},
        "old_object": {"collaborators": [kept], "closed_by": kept},
    }


def test_hash_is_the_same_wherever_a_person_is_named() -> None:
    """So that consumers can join: one text has one hash, a number that of its digits."""
    asked = router(hashed=("open_id", "Agent.id", "Comment.user_id", "user_name"))
    message = {
        "sender_id": {"open_id": "ou_1", "union_id": "on_1"},
        "ticket": {
            "ticket_id": "7",
            "agent_owner": {"id": "ou_1"},
            "comments": {"user_id": 42, "user_name": ""},
        },
    }
    data = value_of(MESSAGE_CREATED, message, asked)["data"]
    assert data["sender_id"] == {"open_id": hashed("ou_1"), "union_id": "on_1"}
    assert data["ticket"]["agent_owner"] == {"id": hashed("ou_1")}
    assert data["ticket"]["comments"] == [{"user_id": hashed("42"), "user_name": ""}]
    guest = value_of(CREATED, {"guest": PERSON, "closed_by": None}, asked)["data"]
    assert guest["guest"]["id"] == {"open_id": hashed("ou_1"), "union_id": "on_1"}
    assert guest["closed_by"] is None


def test_lists_of_texts_are_hashed_text_by_text() -> None:
    asked = router(hashed=("image_keys", "CustomizedField.value"))
    message = {"content": {"image_keys": ["img_1", "img_2"]}}
    made = value_of(MESSAGE_CREATED, message, asked)["data"]["content"]
    assert made == {"image_keys": [hashed("img_1"), hashed("img_2")]}
    ticket = {"customized_fields": [{"value": ["a", "b"]}, {"value": "a"}, {"value": None}]}
    values = [one["value"] for one in value_of(CREATED, ticket, asked)["data"]["customized_fields"]]
    assert values == [[hashed("a"), hashed("b")], hashed("a"), None]


def test_hash_of_an_object_is_that_of_each_text_in_it() -> None:
    """Once, even where a text in it is asked for by its own name; unknown fields too."""
    asked = router(hashed=("guest", "id", "open_id"))
    guest = {"id": {"open_id": "ou_1", "lark_id": "l_1"}, "name": "Li Lei", "age": 7, "x": [{}]}
    made = value_of(CREATED, {"ticket_id": "7", "guest": guest}, asked)["data"]["guest"]
    assert made == {
        "id": {"open_id": hashed("ou_1"), "lark_id": hashed("l_1")},
        "name": hashed("Li Lei"),
        "age": hashed("7"),
        "x": [hashed("{}")],
    }


@pytest.mark.parametrize("depth", [2, 300, 600])
def test_depth_stops_no_hash(depth: int) -> None:
    """A failure would put the whole body on the topic of dead letters."""
    deep: Any = "leaf"
    for _ in range(depth):
        deep = [deep]
    made = record(CREATED, {"guest": {"x": deep}, "status": 1}, router(hashed=("guest",)))
    plain = record(CREATED, {"x": {"x": deep}, "status": 1}, Router("feishu.", {}))
    assert made.outcome is plain.outcome
    assert b"leaf" not in (made.value or b"")


def test_lone_surrogate_is_hashed_too() -> None:
    """JSON allows it, UTF-8 does not."""
    made = value_of(CREATED, {"guest": {"name": "\ud800"}}, router(hashed=("name",)))
    salted = hmac.new(SALT.encode(), b"\xed\xa0\x80", hashlib.sha256).hexdigest()
    assert made["data"]["guest"]["name"] == salted


@pytest.mark.parametrize("schema", ["1.0", "2.0"])
def test_both_schemas_of_feishu_are_kept_private(schema: str) -> None:
    asked = router(drop=("email",), hashed=("name",))
    made = record(CREATED, {"guest": PERSON}, asked, schema=schema).value or b""
    assert not re.search(b"h@x.cn|Han Meimei", made)
    assert hashed("Han Meimei").encode() in made


@pytest.mark.parametrize("private", [{"drop": ("email",)}, {"hashed": ("email",)}])
@pytest.mark.parametrize(
    ("event_type", "event", "pointer"),
    [
        (CREATED, {"guest": {"email": ["h@x.cn"]}}, "/guest/email"),
        (CREATED, {"guest": {"email": {"work": "h@x.cn"}}}, "/guest/email"),
        (CREATED, {"guest": "Han Meimei <h@x.cn>"}, "/guest"),
        (CREATED, {"guest": ["h@x.cn"]}, "/guest"),
        (CREATED, {"agents": "h@x.cn"}, "/agents"),
        (CREATED, {"agents": [{"email": "h@x.cn"}, "h@x.cn"]}, "/agents"),
        (CREATED, {"agents": [{"email": ["h@x.cn"]}]}, "/agents/0/email"),
        (CREATED, {"agents": {"email": ["h@x.cn"]}}, "/agents/email"),
        (CREATED, {"status": {"by": "h@x.cn"}}, "/status"),
        (CREATED, {"comments": ["h@x.cn"]}, "/comments"),
        (CREATED, {"status": 1, "status_code": ["h@x.cn"]}, "/status_code"),
        (UPDATED, {"object": "h@x.cn"}, "/object"),
        (UPDATED, {"old_object": {"guest": ["h@x.cn"]}}, "/old_object/guest"),
        (MESSAGE_CREATED, {"ticket": [{"guest": {"email": "h@x.cn"}}]}, "/ticket"),
        (MESSAGE_CREATED, {"ticket": {"agent_owner": {"email": ["h@x.cn"]}}}, None),
    ],
)
def test_misfit_tells_its_place_and_nothing_else(
    private: Mapping[str, tuple[str, ...]],
    event_type: str,
    event: dict[str, Any],
    pointer: str | None,
) -> None:
    """The original is in the journal; of what is dropped not even the place is told."""
    made = record(event_type, event, router(**private))
    assert b"h@x.cn" not in (made.value or b"")
    value = value_of(event_type, event, router(**private))
    dropped_itself = "drop" in private and (pointer is None or pointer.endswith("/email"))
    if pointer and not dropped_itself:
        assert value["unexpected"] == {pointer: None}
    elif dropped_itself:
        assert "unexpected" not in value


def test_misfit_that_cannot_be_private_is_told() -> None:
    made = value_of(CREATED, {"status": "open", "guest": PERSON}, router(drop=("email",)))
    assert made["unexpected"] == {"/status": "open"}


def test_dropped_code_leaves_no_name_and_no_code() -> None:
    """Nor where Feishu sends a field of the name that the rule makes."""
    event = {"status": 1, "status_code": 5, "agent_service_duration": 3, "score": 1}
    made = value_of(CREATED, event, router(drop=("status", "agent_service_duration")))
    assert made["data"] == {"score": "unsatisfied", "score_code": 1}
    assert "unexpected" not in made


MARK = "the-private-one"
#: What stands in a private field's place: of its own type, of another, of none.
SHAPES: list[Any] = [
    *(MARK, [MARK], {"x": MARK}, [{"x": [MARK]}], {"email": MARK}, [1, MARK], [[MARK]]),
    *({"id": {"open_id": MARK}}, [{"id": MARK, "value": MARK}], {"open_id": MARK}),
]


#: What cannot be hashed.
OTHERS = [*names.IDENTITY.values(), *names.OTHERS.values()]


def planted(path: str, value: Any) -> dict[str, Any]:
    """Make an event with a value at a path; some of the way may be no list."""
    head, _, rest = path.partition(".")
    name = head.removesuffix("[]")
    inner = planted(rest, value) if rest else value
    return {name: [inner] if head.endswith("[]") and rest else inner}


@pytest.mark.parametrize("how", ["drop", "hash"])
@pytest.mark.parametrize("event_type", DOCUMENTED)
def test_private_field_is_nowhere_in_the_clear(event_type: str, how: str) -> None:
    """Whatever stands in its place: neither in the value, nor in the key, nor in a header."""
    others = " ".join(names.IDENTITY.values() if how == "drop" else OTHERS).split()
    for path in DOCUMENTED[event_type]:
        name = path.rpartition(".")[2].removesuffix("[]")
        if name in others:
            continue
        asked = router(drop=(name,)) if how == "drop" else router(hashed=(name,))
        for value in SHAPES:
            made = record(event_type, planted(path, value), asked)
            told = [made.value or b"", made.key, *(text for _, text in made.headers)]
            assert not [text for text in told if MARK.encode() in text], (path, value)


def test_nothing_asked_changes_nothing() -> None:
    """Not even the tables are others: what is off costs nothing."""
    assert Router("feishu.", {}).known is EVENT_TYPES


def tables() -> dict[str, dict[str, Rule]]:
    """Give the rules of each kind of object."""
    found: dict[str, dict[str, Rule]] = {}
    for known in EVENT_TYPES.values():
        for title, table in shapes(known.fields, known.title).items():
            found.setdefault(title, {}).update(table)
    return found


def test_names_are_those_of_the_rules() -> None:
    """The settings have a list of their own, as they know no rules."""
    expected: dict[str, tuple[set[str], set[str]]] = {}
    for title, table in tables().items():
        derived = {rule.derived for rule in table.values()}
        texts = {name for name, rule in table.items() if rule.text} - derived
        expected[title] = texts, set(table) - texts - derived
    listed = {
        title: (
            {*names.TEXTS.get(title, "").split(), *names.IDENTITY.get(title, "").split()},
            set(names.OTHERS.get(title, "").split()),
        )
        for title in {*names.TEXTS, *names.OTHERS}
    }
    assert listed == expected


def test_what_is_personal_has_a_rule() -> None:
    known = {f"{title}.{name}" for title, table in tables().items() for name in table}
    assert glossary.all_personal() <= known


def marks(event_type: str, made_by: Router) -> dict[str, str]:
    """Give what a schema says of fields that are personal data."""
    return {
        f"{title}.{name}": member["x-personal-data"]
        for title, shape in schemas.schema(event_type, made_by)["$defs"].items()
        for name, member in shape["properties"].items()
        if "x-personal-data" in member
    }


def test_schemas_mark_what_is_personal_and_what_became_of_it() -> None:
    plain = marks(CREATED, Router("feishu.", {}))
    assert plain["Person.email"] == plain["UserId.open_id"] == "clear"
    assert "Ticket.status" not in plain
    asked = router(drop=("email", "status"), hashed=("open_id",))
    made = marks(CREATED, asked)
    changed = {"Person.email": "dropped", "Agent.email": "dropped", "UserId.open_id": "hashed"}
    assert made == plain | changed | {"Ticket.status": "dropped", "Ticket.status_code": "dropped"}
    document = schemas.asyncapi(asked)["components"]["schemas"]
    person = document[f"{CREATED}.Person"]["properties"]
    assert person["email"]["x-personal-data"] == "dropped"
    assert person["email"]["description"].endswith("Here it is left out.")
    assert "@" not in json.dumps(schemas.schema(CREATED, asked)["examples"])


def test_command_prints_the_schema_of_a_relay_by_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in LEAST.items():
        monkeypatch.setenv(name, value)
    toml = tmp_path / "relay.toml"
    toml.write_text('[kafka]\ntopic_prefix = "desk."\n[privacy]\ndrop = ["email"]\n')
    made_by = Router("desk.", {}, None, Guard(["email"]))

    def printed(*arguments: str) -> Any:
        done = CliRunner().invoke(app, ["schema", *arguments, "--config", str(toml)])
        return json.loads(done.stdout)

    assert printed() == schemas.asyncapi(made_by)
    assert printed(CREATED) == schemas.schema(CREATED, made_by)
    assert (
        printed(CREATED)["$defs"]["Person"]["properties"]["email"]["x-personal-data"] == "dropped"
    )


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('["email", "Person.name"]', ("email", "Person.name")),
        (' ["email"] ', ("email",)),
        ("[]", ()),
        ("email, Person.name", ("email", "Person.name")),
    ],
)
def test_variable_takes_a_list_in_json_too(text: str, names: tuple[str, ...]) -> None:
    """As the tables beside it do."""
    assert Privacy.model_validate({"drop": text}).drop == names


@pytest.mark.parametrize("text", ['["email"', "[1]", '[["email"]]', '[{"a": 1}]'])
def test_variable_with_another_list_is_refused(text: str) -> None:
    with pytest.raises(ValidationError):
        Privacy.model_validate({"drop": text})


def test_operator_sees_the_record_that_consumers_get(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the settings, as `relay serve` makes it; the body stays whole."""
    for name, value in LEAST.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RELAY_PRIVACY__DROP", "email")
    monkeypatch.setenv("RELAY_JOURNAL__PATH", str(tmp_path / "journal.db"))

    async def fill() -> None:
        async with journal_at(tmp_path / "journal.db") as journal:
            body = payload("e-1", event_type=CREATED, event={"guest": PERSON})
            await journal.add(event("e-1", as_json(body)))

    asyncio.run(fill())
    done = CliRunner().invoke(app, ["events", "show", "e-1", "--record", "--json"])
    shown = json.loads(done.stdout)
    assert shown["body"]["event"]["guest"]["email"] == "h@x.cn"
    assert "email" not in shown["record"]["value"]["data"]["guest"]


@pytest.mark.parametrize(
    ("setting", "given_name", "said"),
    [
        ("drop", "emial", "emial: no event type has such a field; the nearest is email"),
        ("hash", "openid", "openid: no event type has such a field; the nearest is open_id"),
        ("drop", "person.email", "no event type has such a field; the nearest is Person.email"),
        ("drop", "Guest.name", "no event type has such a field; the nearest is"),
        (
            "drop",
            "status_code",
            "status_code: no event type has such a field; the nearest is status",
        ),
        ("drop", "", ": no event type has such a field; the nearest is"),
        ("hash", "status", "status: only texts can be hashed: drop it, or hash the fields in it"),
        ("hash", "Message.ticket", "only texts can be hashed"),
        ("drop", "ticket_id", "ticket_id: is the record's key, and cannot be kept from"),
        ("hash", "Notification.notification_id", "is the record's key"),
    ],
)
def test_name_that_nothing_can_be_done_with_is_refused(
    setting: str, given_name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables = {
        "RELAY_PRIVACY__SALT": SALT,
        f"RELAY_PRIVACY__{setting.upper()}": f"name,{given_name}",
    }
    (line,) = mistakes(monkeypatch, dict(variables))
    assert line.startswith(f"privacy.{setting} (RELAY_PRIVACY__{setting.upper()}): {given_name}: ")
    assert said in line


def test_all_wrong_names_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    variables: dict[str, str | None] = {
        "RELAY_PRIVACY__DROP": "emial, avatar",
        "RELAY_PRIVACY__HASH": "emai",
    }
    found = mistakes(monkeypatch, variables)
    assert [line.rpartition(" ")[2] for line in found] == ["email", "avatar_url", "email"]


@pytest.mark.parametrize("setting", ["drop", "hash"])
@pytest.mark.parametrize("variable", [SALT, f"email,{SALT}", f"{SALT}-{SALT}", f"emial,{SALT}"])
def test_salt_in_the_wrong_place_is_not_shown(
    setting: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is as long as a secret may be one."""
    found = mistakes(monkeypatch, {f"RELAY_PRIVACY__{setting.upper()}": variable})
    assert not [line for line in found if SALT in line]
    assert f"name {variable.count(',') + 1}: no event type has such a field" in found[-1]


def test_field_is_dropped_or_hashed_but_not_both(monkeypatch: pytest.MonkeyPatch) -> None:
    variables: dict[str, str | None] = {
        "RELAY_PRIVACY__DROP": "email",
        "RELAY_PRIVACY__HASH": "name,email",
        "RELAY_PRIVACY__SALT": SALT,
    }
    expected = "privacy.hash (RELAY_PRIVACY__HASH): email: is dropped"
    assert mistakes(monkeypatch, variables) == [expected]


@pytest.mark.parametrize(
    ("pattern", "path", "name"),
    [
        (MESSAGE_CREATED, "sender_id.open_id", "open_id"),
        ("helpdesk.ticket_message.*", "ticket.guest.email", "Person.email"),
        ("helpdesk.*", "guest.name", "guest"),
    ],
)
def test_private_field_is_no_key(
    pattern: str, path: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept out of the value must not stand beside it."""
    keys = {"RELAY_KAFKA__KEYS": json.dumps({pattern: path})}
    found = mistakes(monkeypatch, {**keys, "RELAY_PRIVACY__DROP": name})
    for line in found:
        assert line.startswith("privacy (RELAY_PRIVACY): ")
        assert line.endswith("would show it")
    assert pattern.removesuffix("*") in found[0]


def test_key_of_other_types_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Privacy is for the known types, and says so."""
    monkeypatch.setenv("RELAY_PRIVACY__DROP", "open_id")
    keys = json.dumps({"im.*": "sender.sender_id.open_id", MESSAGE_CREATED: "chat_id"})
    monkeypatch.setenv("RELAY_KAFKA__KEYS", keys)
    for name, value in LEAST.items():
        monkeypatch.setenv(name, value)
    assert settings.load().privacy.drop == ("open_id",)


@pytest.mark.parametrize("salt", [None, SECRET[:5], SALT[:31]])
def test_hash_needs_a_salt_that_nobody_guesses(
    salt: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = mistakes(monkeypatch, {"RELAY_PRIVACY__HASH": "email", "RELAY_PRIVACY__SALT": salt})
    expected = "must have 32 characters: guessed, it tells every hash"
    assert found == [f"privacy.salt (RELAY_PRIVACY__SALT): {expected}"]


def test_names_stand_in_a_file_or_with_commas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the salt in a file of its own; it is never shown."""
    for name, value in LEAST.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "salt").write_text(f"{SALT}\n")
    monkeypatch.setenv("RELAY_PRIVACY__SALT_FILE", str(tmp_path / "salt"))
    toml = tmp_path / "relay.toml"
    toml.write_text('[privacy]\ndrop = ["email", "Person.name"]\nhash = ["open_id"]\n')
    found = settings.load(toml).privacy
    assert (found.drop, found.hash) == (("email", "Person.name"), ("open_id",))
    assert found.salt.get_secret_value() == SALT
    monkeypatch.setenv("RELAY_PRIVACY__DROP", " email , Person.name")
    assert settings.load(toml).privacy == found
    assert SALT not in repr(settings.load(toml))


def test_salt_that_cannot_be_read_is_the_only_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "none")
    variables = {"RELAY_PRIVACY__HASH": "email", "RELAY_PRIVACY__SALT_FILE": path}
    assert mistakes(monkeypatch, dict(variables)) == [f"{path}: No such file or directory"]

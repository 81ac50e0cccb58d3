"""`relay schema register`, against a registry that answers as Confluent's does."""

import asyncio
import base64
import json
import re
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import pytest
from aiohttp import web
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from relay.cli import main as cli
from relay.cli import registry as registry_module
from relay.contract import schemas
from tests.ports import free_port

TYPE = "application/vnd.schemaregistry.v1+json"
MESSAGES = "feishu.helpdesk.ticket_message-helpdesk.ticket_message.created_v1"
SUBJECTS = {
    MESSAGES,
    "feishu.helpdesk.ticket-helpdesk.ticket.created_v1",
    "feishu.helpdesk.ticket-helpdesk.ticket.updated_v1",
    "feishu.helpdesk.notification-helpdesk.notification.approve_v1",
    "feishu.other-other",
}


@dataclass(kw_only=True)
class Registry:
    """Keeps schemas by subject and version; of compatibility it knows what opens and closes."""

    #: The rule of all subjects; a new field of an open object breaks BACKWARD, one less FORWARD.
    rule: str = "BACKWARD"
    user: str = ""
    #: Answers all calls of a kind (`compatibility`, `subjects`) with a status and a body.
    broken: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    subjects: dict[str, list[str]] = field(default_factory=dict)
    ids: dict[str, int] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def answer(self, request: web.BaseRequest) -> web.Response:
        kind, *rest = request.path.strip("/").split("/")
        self.calls.append(kind)
        given = request.headers.get("Authorization", "")
        if self.user and given != "Basic " + base64.b64encode(self.user.encode()).decode():
            return _error(401, 401, "Unauthorized")
        if kind in self.broken:
            status, body = self.broken[kind]
            return web.Response(status=status, body=body, headers={"Location": "/elsewhere"})
        if request.method != "POST" or request.content_type != TYPE:
            return _error(415, 415, "HTTP 415 Unsupported Media Type")
        asked = await request.json()
        text = asked["schema"]
        if asked.get("schemaType") != "JSON":
            return _error(422, 42201, "Invalid schema of type AVRO")
        if kind == "compatibility":
            return self._compatibility(unquote(rest[1]), text, verbose="verbose" in request.query)
        return self._register(unquote(rest[0]), text)

    def _compatibility(self, subject: str, text: str, *, verbose: bool) -> web.Response:
        if subject not in self.subjects:
            return _error(404, 40401, f"Subject '{subject}' not found.")
        found = self._differences(self.subjects[subject][-1], text)
        made: dict[str, Any] = {"is_compatible": not found}
        return web.json_response(made | ({"messages": found} if verbose else {}))

    def _register(self, subject: str, text: str) -> web.Response:
        Draft202012Validator.check_schema(json.loads(text))
        versions = self.subjects.setdefault(subject, [])
        if text in versions:
            return web.json_response({"id": self.ids[text]})
        if versions and (found := self._differences(versions[-1], text)):
            said = f'Schema being registered is incompatible with an earlier schema for "{subject}"'
            return _error(409, 409, f"{said}, details: {found}")
        versions.append(text)
        return web.json_response({"id": self.ids.setdefault(text, len(self.ids) + 1)})

    def _differences(self, old: str, new: str) -> list[str]:
        before, after = _names(json.loads(old)), _names(json.loads(new))
        if self.rule == "FORWARD":
            before, after = after, before
        found = [
            f"{{errorType:'PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL', description:'{name}'}}"
            for name in sorted(after - before)
        ]
        rest = ["{oldSchemaVersion: 1}", f"{{oldSchema: '{old}'}}"]
        return [*found, *rest, f"{{compatibility: '{self.rule}'}}"] if found else []


def _error(status: int, code: int, message: str) -> web.Response:
    return web.json_response({"error_code": code, "message": message}, status=status)


def _names(part: Any, way: str = "") -> set[str]:
    if not isinstance(part, dict):
        return set()
    own = {f"{way}/{name}" for name in part} if way.endswith("/properties") else set()
    return own.union(*(_names(inner, f"{way}/{name}") for name, inner in part.items()))


@pytest.fixture
def registry() -> Iterator[Registry]:
    """Serve it from a thread of its own, as the command has a loop for itself."""
    made = Registry()
    loop = asyncio.new_event_loop()

    async def start() -> web.ServerRunner:
        runner = web.ServerRunner(web.Server(made.answer), shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        made.port = runner.addresses[0][1]
        return runner

    runner = loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield made
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What a command has said, and what it ended with."""

    code: object
    out: str
    err: str


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command as a shell does, errors and all."""

    def run(url: str, *more: str) -> Ended:
        arguments = ["relay", "schema", "register", "--registry", url, *more]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return Ended(code=ended.value.code, out=out, err=" ".join(err.split()))

    return run


def test_every_schema_is_registered_once(register: Any, registry: Registry) -> None:
    """As it is printed; a second time changes nothing."""
    first = register(registry.url)
    assert first.code == 0
    assert set(registry.subjects) == SUBJECTS
    for subject, (text,) in registry.subjects.items():
        name = subject.rpartition("-")[2]
        assert json.loads(text) == schemas.schema(name)
        assert f"{subject}: id {registry.ids[text]}\n" in first.out
    assert register(registry.url + "/").out == first.out
    assert all(len(versions) == 1 for versions in registry.subjects.values())


def test_prefix_is_in_the_subjects(register: Any, registry: Registry) -> None:
    """So that two relays, of a test and of production, can share a registry."""
    register(registry.url, "--prefix", "desk x.")
    assert "desk x.other-other" in registry.subjects


def older() -> str:
    """Give the message's schema, as it was before it had a text."""
    schema = schemas.schema("helpdesk.ticket_message.created_v1")
    members = dict(schema["$defs"]["Message"]["properties"])
    del members["text"]
    message = schema["$defs"]["Message"] | {"properties": members}
    return json.dumps(schema | {"$defs": schema["$defs"] | {"Message": message}})


def test_new_field_is_taken_under_the_rule_forward(register: Any, registry: Registry) -> None:
    registry.rule, registry.subjects = "FORWARD", {MESSAGES: [older()]}
    assert register(registry.url).code == 0
    assert len(registry.subjects[MESSAGES]) == 2


def test_nothing_is_registered_if_one_is_incompatible(register: Any, registry: Registry) -> None:
    """And the sentence names the subject, the difference, the rule and the way out."""
    registry.subjects = {MESSAGES: [older()]}
    ended = register(registry.url)
    assert ended.code == 65
    assert list(registry.subjects) == [MESSAGES]
    assert "subjects" not in registry.calls
    for part in (MESSAGES, "PROPERTY_ADDED_TO_OPEN", "/text", "{compatibility: 'BACKWARD'}"):
        assert part in ended.err
    assert "the rule FORWARD allows that" in ended.err
    assert "oldSchema:" not in ended.err


#: What Confluent's registry, a proxy or another server says.
_ERROR = b'{"error_code": %d, "message": "%s"}'


@pytest.mark.parametrize("kind", ["compatibility", "subjects"])
@pytest.mark.parametrize(
    ("answer", "ended_with"),
    [
        ((401, _ERROR % (401, b"Unauthorized")), (77, "answered 401 .*Unauthorized.*--user")),
        (
            (403, _ERROR % (40301, b"User is denied operation Write")),
            (77, "answered 403.*is denied"),
        ),
        ((401, b""), (77, "answered 401")),
        ((422, _ERROR % (42201, b"Invalid schema")), (76, "does not take .*Invalid schema")),
        ((422, b"<html>"), (76, "does not take the schema")),
        ((500, _ERROR % (50001, b"Error in the backend datastore")), (69, "answered 500.*backend")),
        ((503, b""), (69, "answered 503")),
        ((429, b""), (69, "answered 429")),
        ((404, b"<html>"), (76, "answered 404 .*is it a schema registry")),
        ((301, b""), (76, "answered 301")),
        ((200, b"<html>"), (76, "answered 200 .*is it a schema registry")),
        ((200, b"[]"), (76, "answered 200 .*is it a schema registry")),
    ],
)
def test_error_is_a_sentence_and_an_exit_code(
    register: Any,
    registry: Registry,
    kind: str,
    answer: tuple[int, bytes],
    ended_with: tuple[int, str],
) -> None:
    code, said = ended_with
    registry.broken = {kind: answer}
    ended = register(registry.url)
    assert ended.code == code
    assert ended.err.startswith("relay: ")
    assert re.search(said, ended.err), ended.err
    assert registry.subjects == {}


def test_conflict_at_the_end_is_incompatibility(register: Any, registry: Registry) -> None:
    """Somebody was faster, or the rule looks at more than the latest version."""
    registry.broken = {"subjects": (409, _ERROR % (409, b"incompatible with an earlier schema"))}
    ended = register(registry.url)
    assert ended.code == 65
    assert "incompatible with an earlier schema" in ended.err


@pytest.mark.parametrize(
    ("kind", "body", "code"),
    [
        ("subjects", b'{"version": 1}', 76),
        ("compatibility", b'{"is_compatible": "yes"}', 65),
        ("compatibility", b'{"is_compatible": false, "messages": "none"}', 65),
    ],
)
def test_answer_without_what_was_asked_is_no_success(
    register: Any, registry: Registry, kind: str, body: bytes, code: int
) -> None:
    registry.broken = {kind: (200, body)}
    assert register(registry.url).code == code


def test_credentials_come_from_the_environment(
    register: Any, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.user = "relay:gehéim"
    assert register(registry.url).code == 77
    monkeypatch.setenv("RELAY_REGISTRY_USER", "relay")
    monkeypatch.setenv("RELAY_REGISTRY_PASSWORD", "gehéim")
    assert register(registry.url).code == 0
    monkeypatch.setenv("RELAY_REGISTRY_PASSWORD", "wrong-one")
    ended = register(registry.url)
    assert ended.code == 77
    assert "wrong-one" not in ended.out + ended.err


def test_registry_that_is_not_there(register: Any) -> None:
    ended = register(f"http://127.0.0.1:{free_port()}")
    assert ended.code == 69
    assert "cannot be reached: Connect" in ended.err


def test_registry_that_says_nothing(register: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "TIMEOUT", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ended = register(f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert ended.code == 69
    assert "did not answer in 0.1 s" in ended.err


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("registry:8081", "--registry is http://HOST:PORT"),
        ("ftp://registry", "--registry is http://HOST:PORT"),
        ("http://", "--registry is http://HOST:PORT"),
        ("http://[::1", "--registry is http://HOST:PORT"),
        ("http://registry:99999", "--registry is http://HOST:PORT"),
        ("http://me:secret-7@registry", "name them by --user"),
    ],
)
def test_address_that_is_none_is_refused(register: Any, url: str, said: str) -> None:
    """And a password in it is shown to nobody."""
    ended = register(url)
    assert ended.code == 2
    assert said in ended.err.replace("│ ", "")
    assert "secret-7" not in ended.err

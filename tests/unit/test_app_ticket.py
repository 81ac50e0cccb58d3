"""An app's ticket is a credential: on no topic, on no disk, in no list; counted all the same."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from relay.cli import main as cli
from relay.contract.credentials import HIDDEN, concealed, without_ticket
from relay.errors import EventNotReplayableError, KafkaUnavailableError
from relay.events import Callback, Outcome, RawCallback, Settlement, Transport
from relay.ingress import authentic
from relay.ingress.pipeline import Pipeline
from relay.journal import handover
from relay.journal import view as journalview
from relay.observe.account import Account
from relay.observe.metrics import Metrics
from relay.settings import App
from tests.fakes import KEY, TOKEN, MemoryKafka, as_json, encrypt, event, journal_at, sign, until
from tests.unit.test_authentic import credentials, opened, signed
from tests.unit.test_dispatcher import dispatching, drained, endings, published

TICKET = "t-a-ticket-that-nobody-may-see"


def old(event_id: str = "u-1", **event: Any) -> dict[str, Any]:
    """Give a ticket as Feishu sends it: in schema 1.0."""
    content = {"type": "app_ticket", "app_id": "cli_a", "app_ticket": TICKET} | event
    return {
        "uuid": event_id,
        "token": TOKEN,
        "ts": "1502199207.7171419",
        "type": "event_callback",
        "event": content,
    }


def new(event_id: str = "e-1", **event: Any) -> dict[str, Any]:
    """Give one as schema 2.0 would have it."""
    header = {"event_id": event_id, "event_type": "app_ticket", "token": TOKEN, "app_id": "cli_a"}
    return {"schema": "2.0", "header": header, "event": {"app_ticket": TICKET} | event}


FORMS: dict[str, Any] = {
    "1.0": old(),
    "1.0 with more": old(app_tickets=[TICKET], next={"app_ticket": TICKET}, ticket=TICKET),
    "1.0 without an id": old(""),
    "1.0 beyond 64 bits": old(n=2**70),
    "1.0 deep": old(deep=json.loads("[" * 500 + "]" * 500)),
    "1.0 odd characters": old(text="\ud800"),
    "2.0": new(),
    "2.0 without an id": new(""),
    "2.0 with names that hold it": new(app_id={"a": TICKET}, tenant_key=[TICKET]),
    "2.0 beside the event": new() | {"app_ticket": TICKET, "more": [TICKET]},
    "2.0 in its header": new() | {"header": new()["header"] | {"app_ticket": TICKET}},
    "2.0 as no object": new() | {"event": TICKET},
    "2.0 as a list": new() | {"event": [TICKET]},
}


@pytest.mark.parametrize("form", FORMS)
def test_ticket_is_cut_out_at_the_door(form: str) -> None:
    """What is stored has the envelope and the event's names; even without an id it is no letter."""
    plain = json.dumps(FORMS[form]).encode()
    over_the_air = RawCallback(
        app="default", transport=Transport.LONG_CONNECTION, body=plain, received_at=1
    )
    for found in (
        opened(signed(plain)),
        authentic.open(replace(over_the_air, transport=Transport.WEBHOOK), credentials(keys=())),
        authentic.open(over_the_air, credentials()),
    ):
        assert isinstance(found, Callback)
        assert TICKET.encode() not in found.body
        assert (found.event_type, found.dead_letter, found.content) == ("app_ticket", None, None)
        assert len(found.event_id) == (64 if "without an id" in form else 3)
        assert json.loads(found.body).keys() == FORMS[form].keys()


def test_the_rest_of_a_ticket_stays() -> None:
    """It tells which app it was for."""
    found = json.loads(without_ticket(as_json(old(tenant_key="t1"))))
    hidden = {"type": "app_ticket", "app_id": "cli_a", "app_ticket": HIDDEN, "tenant_key": "t1"}
    assert found == old() | {"event": hidden}


@pytest.mark.parametrize("event_type", ["app_ticket_v1", "x.app_ticket", "App_ticket", "message"])
def test_other_types_are_stored_as_they_come(event_type: str) -> None:
    body = as_json(old() | {"event": {"type": event_type, "app_ticket": "of a cinema"}})
    assert opened(signed(body)).body == body


def test_two_tickets_without_an_id_are_two() -> None:
    first, second = old(""), old("", app_ticket="another")
    assert opened(signed(first)).event_id != opened(signed(second)).event_id


def ticket(event_id: str) -> Callback:
    return opened(signed(old(event_id)))


async def test_ticket_goes_to_no_topic_and_is_counted(tmp_path: Path) -> None:
    """The events around it go out, in their order; the account balances."""
    kafka, metrics = MemoryKafka(), Metrics()
    async with (
        journal_at(tmp_path / "j.db", metrics) as journal,
        dispatching(journal, kafka, metrics),
    ):
        with capture_logs() as lines:
            for one in (event("a"), ticket("t-1"), event("b"), ticket("t-2"), ticket("t-1")):
                await journal.add(one)
            await until(lambda: drained(metrics))
    assert published(kafka) == ["a", "b"]
    assert endings(tmp_path / "j.db") == [
        ("a", "published", None),
        ("t-1", "withheld", None),
        ("b", "published", None),
        ("t-2", "withheld", None),
    ]
    expected = Account(received=5, published=2, duplicate=1, dead_letter=0, pending=0, withheld=2)
    assert metrics.account() == expected
    assert 'relay_settled_total{outcome="withheld"} 2.0' in metrics.exposition().decode()
    assert TICKET not in str(lines)


async def test_tickets_alone_need_nothing_of_kafka(tmp_path: Path) -> None:
    """And a batch whose answer was lost ends as it would have."""
    kafka = MemoryKafka(after_commit=[KafkaUnavailableError("no answer")])
    metrics = Metrics()
    async with journal_at(tmp_path / "j.db", metrics) as journal:
        async with dispatching(journal, kafka, metrics):
            await journal.add(ticket("t-1"))
            await until(lambda: drained(metrics))
        for one in (ticket("t-2"), event("a"), ticket("t-3")):
            await journal.add(one)
        async with dispatching(journal, kafka, metrics):
            await until(lambda: drained(metrics))
    assert published(kafka) == ["a"]
    assert [ending for _, ending, _ in endings(tmp_path / "j.db")] == [
        "withheld",
        "withheld",
        "published",
        "withheld",
    ]


async def test_ticket_beside_a_refused_record_is_not_mistaken_for_it(tmp_path: Path) -> None:
    """The broker names records by their places, and a ticket has none."""
    kafka, metrics = MemoryKafka(max_bytes=5000), Metrics()
    large = event("large", as_json({"schema": "2.0", "header": {}, "event": {"text": "x" * 6000}}))
    async with journal_at(tmp_path / "j.db", metrics) as journal:
        for one in (ticket("t-1"), event("a"), ticket("t-2"), large, ticket("t-3"), event("b")):
            await journal.add(one)
        async with dispatching(journal, kafka, metrics):
            await until(lambda: drained(metrics))
    ends = {name: (ending, reason) for name, ending, reason in endings(tmp_path / "j.db")}
    assert ends["large"] == ("dead_letter", "too_large")
    assert ends["a"] == ends["b"] == ("published", None)
    assert ends["t-1"] == ends["t-2"] == ends["t-3"] == ("withheld", None)
    assert all(TICKET.encode() not in (value or b"") for value in kafka.values)


def by_an_earlier_version(path: Path) -> None:
    """Fill a journal as a relay has that kept tickets: one pending, one published."""

    async def fill() -> None:
        async with journal_at(path) as journal:
            for name in ("done", "open"):
                raw = event(name, as_json(old(name)))
                await journal.add(replace(raw, event_type="app_ticket"))
            await journal.settle([Settlement(seq=1, outcome=Outcome.PUBLISHED)], 1)

    asyncio.run(fill())


def run(*arguments: str) -> str:
    done = CliRunner().invoke(cli.app, ["events", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_ticket_that_an_earlier_version_has_stored_is_shown_to_nobody(tmp_path: Path) -> None:
    """Nor is it published again, or exported."""
    path = tmp_path / "j.db"
    by_an_earlier_version(path)
    for name in ("done", "open"):
        shown = run("show", name, "--record", "--json", "--journal", str(path))
        assert TICKET not in shown
        assert json.loads(shown)["body"]["event"]["app_ticket"] == HIDDEN
        assert json.loads(shown)["record"] is None
    with (
        journalview.opened(path) as view,
        pytest.raises(EventNotReplayableError, match="an app's ticket"),
    ):
        view.replay("done")
    assert handover.write(path, tmp_path / "export") == 1
    other = tmp_path / "other.db"
    by_an_earlier_version(other)
    handover.read(tmp_path / "export", other)
    with journalview.opened(path) as view:
        assert view.find("open")[0].outcome == Outcome.DUPLICATE


def test_export_has_no_ticket(tmp_path: Path) -> None:
    """Its lines are base64, so it is looked for in what they hold."""
    path = tmp_path / "j.db"
    by_an_earlier_version(path)
    handover.write(path, tmp_path / "export")

    async def there() -> None:
        async with journal_at(tmp_path / "new.db"):
            pass

    asyncio.run(there())
    assert handover.read(tmp_path / "export", tmp_path / "new.db").added == 1
    with journalview.opened(tmp_path / "new.db") as view:
        entry, body = view.find("open")
    assert (entry.event_type, TICKET.encode() in body) == ("app_ticket", False)


def contents(folder: Path) -> bytes:
    return b"".join(one.read_bytes() for one in folder.iterdir())


async def test_no_file_of_the_journal_has_the_ticket(tmp_path: Path) -> None:
    """From the request to the end of its row, the log of SQLite included."""
    metrics = Metrics()
    app = App.model_validate({"encrypt_key": KEY, "verification_token": TOKEN})
    async with journal_at(tmp_path / "j.db", metrics) as journal:
        pipeline = Pipeline({"default": app}, journal)
        body = encrypt(as_json(old()))
        given = sign(body)
        raw = RawCallback(
            app="default",
            transport=Transport.WEBHOOK,
            body=body,
            received_at=int(given["X-Lark-Request-Timestamp"]) * 1000,
            timestamp=given["X-Lark-Request-Timestamp"],
            nonce=given["X-Lark-Request-Nonce"],
            signature=given["X-Lark-Signature"],
        )
        assert await pipeline.accept(raw) is Outcome.ACCEPTED
        assert await pipeline.accept(raw) is Outcome.DUPLICATE
        files = await asyncio.to_thread(contents, tmp_path)
        assert b"app_ticket" in files
        assert TICKET.encode() not in files


def test_list_can_be_narrowed_to_what_is_withheld(tmp_path: Path) -> None:
    path = tmp_path / "j.db"

    async def fill() -> None:
        async with journal_at(path) as journal:
            await journal.add(ticket("t-1"))
            await journal.settle([Settlement(seq=1, outcome=Outcome.WITHHELD)], 1)

    asyncio.run(fill())
    listed = run("list", "--outcome", "withheld", "--json", "--journal", str(path))
    assert json.loads(listed)["event_id"] == "t-1"


def test_conceals_whatever_it_is_given() -> None:
    assert [concealed(odd) for odd in (None, 1, "a", [TICKET])] == [None, 1, "a", [TICKET]]
    assert concealed({"token": "a", "header": "b"}) == {"token": HIDDEN, "header": "b"}
    assert concealed({"header": {"token": "a", "x": 1}}) == {"header": {"token": HIDDEN, "x": 1}}
    assert TICKET not in json.dumps(concealed(old())) + json.dumps(concealed(new()))
    assert TOKEN not in json.dumps(concealed(old())) + json.dumps(concealed(new()))

"""`relay backfill` against the small Feishu: what was missed comes once, like any event."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from typer.testing import CliRunner

from relay.cli.main import app as command
from relay.contract.normalize import Router, normalize
from relay.errors import FeishuUnavailableError
from relay.events import Callback, Transport
from relay.feishu import backfill as backfill_module
from relay.feishu.api import Feishu, HelpDesk
from relay.feishu.backfill import CREATED, MESSAGE, UPDATED, Backfill, Range
from relay.observe.metrics import Metrics
from relay.simulator.feishu import SmallFeishu
from relay.simulator.gateway import GatewayOptions
from relay.simulator.samples import Helpdesk
from tests.fakes import journal_at, until

OPTIONS = GatewayOptions(app_id="cli_a", app_secret="secret-a", seed=1)
TYPES = {
    "helpdesk.ticket.created_v1",
    "helpdesk.ticket.updated_v1",
    "helpdesk.ticket_message.created_v1",
}
Json = dict[str, Any]
EVER = Range(since=0, until=2_000_000_000_000)
NOON = 1_766_923_200_000


def outage() -> list[Json]:
    """Make the events that nobody took; the same ones each time."""
    clock = iter(range(1_767_000_000_000, 1_768_000_000_000, 1000))
    desk = Helpdesk(
        random.Random(7), tickets=4, app_id="cli_a", token="", clock=lambda: next(clock)
    )
    return [desk.next().payload for _ in range(60)]


@pytest.fixture
async def feishu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[SmallFeishu]:
    """A Feishu in which a lot has happened while nobody was there."""
    monkeypatch.setattr(backfill_module, "BUSY_WAIT", 0.3)
    place = SmallFeishu(OPTIONS)
    await place.start()
    for payload in outage():
        place.archive.add(payload)
    for name, value in {
        "RELAY_FEISHU_URL": place.url,
        "RELAY_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "RELAY_JOURNAL__PATH": str(tmp_path / "journal.db"),
        "RELAY_APPS__DEFAULT__APP_ID": OPTIONS.app_id,
        "RELAY_APPS__DEFAULT__APP_SECRET": OPTIONS.app_secret,
        "RELAY_APPS__DEFAULT__LONG_CONNECTION": "true",
        "RELAY_APPS__DEFAULT__HELPDESK_ID": place.desk.helpdesk_id,
        "RELAY_APPS__DEFAULT__HELPDESK_TOKEN": place.desk.helpdesk_token,
    }.items():
        monkeypatch.setenv(name, value)
    yield place
    await place.stop()


@pytest.fixture
async def reading(feishu: SmallFeishu, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Backfill]:
    """Read without Feishu's limits."""
    monkeypatch.setattr(backfill_module, "CALLS_PER_SECOND", 1000)
    monkeypatch.setattr("relay.simulator.api.MOST_CALLS", 10_000)
    async with aiohttp.ClientSession() as session:
        api = Feishu(session, feishu.url)
        token = await api.tenant_token(OPTIONS.app_id, OPTIONS.app_secret)
        desk = HelpDesk(
            tenant_token=token,
            helpdesk_id=feishu.desk.helpdesk_id,
            helpdesk_token=feishu.desk.helpdesk_token,
        )
        yield Backfill(api, desk, "cli_a")


async def run(*arguments: str) -> tuple[int, str]:
    result = await asyncio.to_thread(CliRunner().invoke, command, arguments)
    return result.exit_code, result.output + str(result.exception or "")


async def pending(path: Path) -> list[str]:
    async with journal_at(path / "journal.db") as journal:
        return [one.event_id for one in await journal.pending(10_000, 2**30)]


RANGE = ("--since", "2025-12-01", "--until", "2027-12-31T10:00")


async def test_missed_events_are_added_once(feishu: SmallFeishu, tmp_path: Path) -> None:
    """A second run finds them in the journal."""
    async with journal_at(tmp_path / "journal.db"):
        pass
    code, said = await run("backfill", *RANGE)
    assert code == 0, said
    added = await pending(tmp_path)
    messages = sum(map(len, feishu.archive.messages.values()))
    assert len([one for one in added if one.startswith("backfill-message-")]) == messages > 10
    assert len([one for one in added if one.startswith("backfill-ticket-")]) >= 4
    assert len(added) == len(set(added))
    code, again = await run("backfill", *RANGE)
    assert code == 0
    assert added == await pending(tmp_path)
    counts = [line.split()[-1] for line in again.splitlines() if line.startswith("helpdesk")]
    assert counts == ["0", "0", "0"]


async def test_dry_run_adds_nothing(feishu: SmallFeishu, tmp_path: Path) -> None:
    async with journal_at(tmp_path / "journal.db"):
        pass
    code, said = await run("backfill", "--dry-run", *RANGE)
    assert code == 0
    assert "would be added" in said
    told = json.loads((await run("backfill", "--dry-run", "--json", *RANGE))[1])
    messages = sum(map(len, feishu.archive.messages.values()))
    assert told["dry_run"] is True
    assert told["tickets"] > 0
    assert told["found"] == told["added"]
    assert told["added"]["helpdesk.ticket_message.created_v1"] == messages
    assert await pending(tmp_path) == []


async def test_what_has_come_as_an_event_is_not_added(feishu: SmallFeishu, tmp_path: Path) -> None:
    """It is known by the message's id, though the event's id is another."""
    ((ticket_id, (first, *_)), *_) = feishu.archive.messages.items()
    body = {
        "schema": "2.0",
        "header": {"event_id": "real-1"},
        "event": {"message_id": first["message_id"], "ticket": {"ticket_id": ticket_id}},
    }
    async with journal_at(tmp_path / "journal.db") as journal:
        await journal.add(
            Callback(
                app="default",
                transport=Transport.WEBHOOK,
                received_at=1,
                event_id="real-1",
                event_type="helpdesk.ticket_message.created_v1",
                body=json.dumps(body).encode(),
            )
        )
    assert (await run("backfill", *RANGE))[0] == 0
    added = await pending(tmp_path)
    assert "real-1" in added
    assert f"backfill-message-{first['message_id']}" not in added


async def test_nothing_is_added_where_all_has_come(feishu: SmallFeishu, tmp_path: Path) -> None:
    """Events are recognized though Feishu's API writes people and contents in other ways."""
    async with journal_at(tmp_path / "journal.db") as journal:
        for payload in outage():
            await journal.add(
                Callback(
                    app="default",
                    transport=Transport.WEBHOOK,
                    received_at=1,
                    event_id=payload["header"]["event_id"],
                    event_type=payload["header"]["event_type"],
                    body=json.dumps(payload).encode(),
                )
            )
    code, said = await run("backfill", *RANGE)
    assert code == 0, said
    counts = [line.split()[-2:] for line in said.splitlines() if line.startswith("helpdesk")]
    assert [new for _, new in counts] == ["0", "0", "0"]
    assert all(int(found) for found, _ in counts)


async def test_events_that_tell_nothing_are_no_obstacle(
    feishu: SmallFeishu, tmp_path: Path
) -> None:
    """No JSON, no event, an update of no ticket; and one that a full journal has only by its id."""
    ticket_id = next(iter(feishu.archive.messages))
    known = f"backfill-ticket-{ticket_id}"
    bodies = {
        "a": b"x",
        "b": b'{"event": 7}',
        "c": b'{"event": {"object": "none"}}',
        known: b"",
    }
    async with journal_at(tmp_path / "journal.db") as journal:
        for event_id, body in bodies.items():
            await journal.add(
                Callback(
                    app="default",
                    transport=Transport.WEBHOOK,
                    received_at=1,
                    event_id=event_id,
                    event_type="helpdesk.ticket.updated_v1",
                    body=body,
                )
            )
    code, said = await run("backfill", *RANGE)
    assert code == 0, said
    (found, new) = next(line.split()[-2:] for line in said.splitlines() if line.startswith(CREATED))
    assert int(new) == int(found) - 1
    added = await pending(tmp_path)
    assert added[:4] == list(bodies)
    assert added.count(known) == 1


async def test_messages_behind_the_first_page_are_read(
    feishu: SmallFeishu, reading: Backfill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill_module, "PAGE", 2)
    ticket_id, messages = max(feishu.archive.messages.items(), key=lambda item: len(item[1]))
    assert len(messages) > 4
    found = reading.events({"ticket_id": ticket_id}, EVER)
    assert [one.event_id async for one in found] == [
        f"backfill-message-{message['message_id']}" for message in messages
    ]


async def test_events_lie_in_the_range(feishu: SmallFeishu, reading: Backfill) -> None:
    """A ticket made before it tells of its messages and its change; one of no time, of neither."""
    ticket_id, (first, *rest) = next(iter(feishu.archive.messages.items()))
    wanted = Range(since=first["created_at"] + 1, until=2_000_000_000_000)
    ticket = {"ticket_id": ticket_id, "created_at": 1, "updated_at": str(wanted.since)}
    found = [one async for one in reading.events(ticket, wanted)]
    assert [one.event_type for one in found] == [MESSAGE] * len(rest) + [UPDATED]
    assert found[-1].mark == (UPDATED, ticket_id, str(wanted.since))
    for times in ({}, {"created_at": "soon", "updated_at": None}):
        found = [one async for one in reading.events({"ticket_id": ticket_id, **times}, wanted)]
        assert [one.event_type for one in found] == [MESSAGE] * len(rest)


async def test_stage_is_there_if_feishu_gives_it(feishu: SmallFeishu, reading: Backfill) -> None:
    """Under the name that events have for it."""
    wanted, ticket_id = Range(since=NOON, until=NOON), next(iter(feishu.archive.tickets))
    ticket = {"ticket_id": ticket_id, "created_at": NOON}
    for given, expected in (({}, {}), ({"ticket_type": 2}, {"stage": 2})):
        (found,) = [one async for one in reading.events(ticket | given, wanted)]
        assert found.body["event"] == ticket | expected


async def test_message_reads_as_its_event_did(feishu: SmallFeishu, reading: Backfill) -> None:
    """Feishu's API gives the content as a JSON document, where an event has text and an object."""
    events = {payload["event"].get("message_id"): payload["event"] for payload in outage()}
    ticket_id, messages = max(feishu.archive.messages.items(), key=lambda item: len(item[1]))
    assert {json.loads(message["content"])["msg_type"] for message in messages} == {"text"}
    found = [one.body["event"] async for one in reading.events({"ticket_id": ticket_id}, EVER)]
    assert len(found) == len(messages)
    for event in found:
        for name in ("ticket_message_id", "msg_type", "text", "content"):
            assert event[name] == events[event["message_id"]][name]


@pytest.mark.parametrize(
    ("given", "content"),
    [
        ("Hello", {"content": "Hello", "msg_type": "text"}),
        ("[1]", {"content": "[1]", "msg_type": "text"}),
        ("\ud800", {"content": "\ud800", "msg_type": "text"}),
        (None, {"content": None, "msg_type": "text"}),
        ('{"image_key":"img_1"}', {"image_key": "img_1"}),
        ('{"content":7}', {"content": 7}),
        # A rich text: in an event it is text, serialized.
        (
            '{"title":"t","content":[[{"tag":"text","text":"好"}]]}',
            {"title": "t", "content": '[[{"tag":"text","text":"好"}]]'},
        ),
        ('{"content":{"a":18446744073709551616}}', {"content": '{"a":18446744073709551616}'}),
    ],
)
async def test_content_without_a_text_of_its_own_is_the_text(
    given: str | None, content: Json, feishu: SmallFeishu, reading: Backfill
) -> None:
    """It is no document, though Feishu's pages show that too, or a document of something else."""
    ticket_id, (message, *_) = next(iter(feishu.archive.messages.items()))
    feishu.archive.messages[ticket_id] = [message | {"content": given}]
    (found,) = [one async for one in reading.events({"ticket_id": ticket_id}, EVER)]
    assert found.body["event"]["text"] == given
    assert found.body["event"]["content"] == content


async def test_ticket_has_its_people_as_its_event_did(
    feishu: SmallFeishu, reading: Backfill
) -> None:
    """But for the ids that Feishu's API does not tell."""
    guests = {
        payload["event"]["ticket_id"]: payload["event"]["guest"]
        for payload in outage()
        if payload["header"]["event_type"] == CREATED
    }
    tickets = await reading.tickets(EVER)
    for ticket in tickets:
        created, *_ = [one.body["event"] async for one in reading.events(ticket, EVER)]
        guest = guests[created["ticket_id"]]
        assert created["guest"] == guest | {"id": {"open_id": guest["id"]["open_id"]}}
        assert ticket["guest"] == guest | {"id": guest["id"]["open_id"]}
    agents = [agent for ticket in tickets for agent in ticket.get("agents", [])]
    assert {type(agent["id"]) for agent in agents} == {str}


LI: Json = {"id": "ou_1", "name": "Li Lei"}
LI_IN_EVENTS: Json = {"id": {"open_id": "ou_1"}, "name": "Li Lei"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (LI, LI_IN_EVENTS),
        ([LI, LI], [LI_IN_EVENTS, LI_IN_EVENTS]),
        ([], []),
        ([LI, "Han", None], [LI_IN_EVENTS, "Han", None]),
        (LI_IN_EVENTS, LI_IN_EVENTS),
        ({"id": 7}, {"id": 7}),
        ({"name": "Li Lei"}, {"name": "Li Lei"}),
        ("ou_1", "ou_1"),
        (None, None),
    ],
)
async def test_people_have_the_ids_that_events_have(
    given: object, expected: object, feishu: SmallFeishu, reading: Backfill
) -> None:
    """One or several, wherever they stand; but in a message's ticket, events have texts too."""
    ticket_id, (message, *_) = next(iter(feishu.archive.messages.items()))
    feishu.archive.messages[ticket_id] = [message]
    ticket = {"ticket_id": ticket_id, "created_at": NOON, "updated_at": NOON + 1, "agent_owner": LI}
    people = ("guest", "agents", "collaborators", "closed_by")
    ticket |= dict.fromkeys(people, given)
    created, said, updated = [one.body["event"] async for one in reading.events(ticket, EVER)]
    assert created == updated["object"] == ticket | dict.fromkeys(people, expected)
    assert said["ticket"] == ticket


async def test_times_of_messages_may_be_in_seconds(feishu: SmallFeishu, reading: Backfill) -> None:
    """Feishu's pages show both; a message of no time lies in no range."""
    ticket_id, messages = max(feishu.archive.messages.items(), key=lambda item: len(item[1]))
    timeless, *told, late = messages
    wanted = Range(since=told[0]["created_at"], until=told[-1]["created_at"])
    expected = [(f"backfill-message-{one['message_id']}", one["created_at"]) for one in told]
    del timeless["created_at"]
    for message in (*told[1:], late):
        message["created_at"] //= 1000
    told[1]["created_at"] = str(told[1]["created_at"])
    found = [one async for one in reading.events({"ticket_id": ticket_id}, wanted)]
    assert [(one.event_id, int(one.body["header"]["create_time"])) for one in found] == expected


async def test_busy_feishu_is_asked_again(
    reading: Backfill, feishu: SmallFeishu, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it has time; but not for ever."""
    monkeypatch.setattr(backfill_module, "BUSY_WAIT", 0.01)
    monkeypatch.setattr("relay.simulator.api.MOST_CALLS", 0)
    with pytest.raises(FeishuUnavailableError, match="too many calls"):
        await reading.tickets(EVER)
    asking = asyncio.create_task(reading.tickets(EVER))
    await until(lambda: reading._next_call > 0)
    monkeypatch.setattr("relay.simulator.api.MOST_CALLS", 10_000)
    assert len(await asking) == len(feishu.archive.tickets)


async def test_record_is_like_any_other_and_marked(feishu: SmallFeishu, tmp_path: Path) -> None:
    """And the account balances although another process has put the row in."""
    metrics = Metrics()
    async with journal_at(tmp_path / "journal.db", metrics) as journal:
        assert (await run("backfill", *RANGE))[0] == 0
        events = await journal.pending(10_000, 2**30)
        assert metrics.account().received == metrics.account().pending == len(events) > 20
        records = [normalize(event, Router("feishu.", {})) for event in events]
    assert {event.event_type for event in events} == TYPES
    for record in records:
        assert dict(record.headers)["relay_backfill"] == b"1"
        assert record.value
        value = json.loads(record.value)
        assert value["event"]["transport"] == "backfill"
        assert value["ticket_id"]
        assert "unexpected" not in value, value["unexpected"]


async def test_range_is_kept(feishu: SmallFeishu, tmp_path: Path) -> None:
    async with journal_at(tmp_path / "journal.db"):
        pass
    assert (await run("backfill", "--since", "2020-01-01", "--until", "2021-01-01"))[0] == 0
    assert await pending(tmp_path) == []


async def test_more_tickets_than_feishu_lists_are_read_in_pieces(
    feishu: SmallFeishu, reading: Backfill, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backfill_module, "MOST", 2)
    monkeypatch.setattr(backfill_module, "PAGE", 1)
    tickets = await reading.tickets(EVER)
    assert sorted(ticket["ticket_id"] for ticket in tickets) == sorted(feishu.archive.tickets)


async def test_ticket_that_has_moved_on_since_is_read(
    feishu: SmallFeishu, reading: Backfill
) -> None:
    """It was changed after the range, and its messages lie in it."""
    ticket_id, messages = max(feishu.archive.messages.items(), key=lambda item: len(item[1]))
    wanted = Range(since=messages[0]["created_at"], until=messages[-1]["created_at"])
    feishu.archive.tickets[ticket_id] |= {"created_at": 1, "updated_at": wanted.until + 1}
    tickets = {one["ticket_id"]: one for one in await reading.tickets(wanted)}
    found = [one.event_id async for one in reading.events(tickets[ticket_id], wanted)]
    assert found == [f"backfill-message-{message['message_id']}" for message in messages]


async def test_ticket_that_changes_meanwhile_hides_no_other(
    feishu: SmallFeishu, reading: Backfill, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One leaves the first page after it was read: the pages behind it move up."""
    monkeypatch.setattr(backfill_module, "PAGE", 2)
    tickets = feishu.archive.tickets
    everything, read = sorted(tickets), Backfill._page

    async def page(self: Backfill, path: str, name: str, query: object, number: int) -> object:
        answer = await read(self, path, name, query, number)  # type: ignore[arg-type]
        if number == 1 and everything[0] in tickets:
            del tickets[everything[0]]
        return answer

    monkeypatch.setattr(Backfill, "_page", page)
    found = await reading.tickets(EVER)
    assert sorted(ticket["ticket_id"] for ticket in found) == everything


async def test_ticket_made_after_the_range_is_not_read(
    feishu: SmallFeishu, reading: Backfill
) -> None:
    """However many come while the list is read."""
    latest = max(ticket["created_at"] for ticket in feishu.archive.tickets.values())
    feishu.archive.tickets["later"] = {
        "ticket_id": "later",
        "created_at": latest + 1,
        "updated_at": -1,
    }
    found = await reading.tickets(Range(since=0, until=latest))
    assert "later" not in {ticket["ticket_id"] for ticket in found}
    assert found


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--since", "yesterday"), "is no time"),
        (("--since", "2026-01-02", "--until", "2026-01-01"), "later than"),
        (("--since", "2026-01-02", "--app", "nobody"), "no app 'nobody'"),
    ],
)
async def test_mistakes_are_named(
    arguments: tuple[str, ...], said: str, feishu: SmallFeishu, tmp_path: Path
) -> None:
    async with journal_at(tmp_path / "journal.db"):
        pass
    code, output = await run("backfill", *arguments)
    assert code != 0
    assert said in output

"""How a record is shown to a person, and to a program."""

import json
from dataclasses import replace
from typing import Any

import pytest
from rich.cells import cell_len

from relay.contract.printable import printable
from relay.tail import Seen, as_line, render, short_id, short_type, summarize


def seen(value: Any = None, *, raw: bytes | None = None, **changes: Any) -> Seen:
    fields: dict[str, Any] = {
        "topic": "feishu.helpdesk.ticket_message",
        "partition": 3,
        "offset": 42,
        "timestamp": 1_700_000_000_000,
        "key": b"6981801914270744596",
        "value": raw if raw is not None else json.dumps(value).encode(),
        "headers": (("ce_id", b"e1"),),
    }
    return Seen(**(fields | changes))


def event(event_type: str, data: Any, ticket_id: str | None = "6981801914270744596") -> Any:
    return {"event": {"type": event_type}, "ticket_id": ticket_id, "data": data}


MESSAGE = "helpdesk.ticket_message.created_v1"


@pytest.mark.parametrize(
    ("value", "story"),
    [
        (event(MESSAGE, {"sender_type": "guest", "text": "你好"}), "guest: 你好"),
        (event(MESSAGE, None), "?: "),
        (
            event("helpdesk.ticket.created_v1", {"status": "created", "guest": {"name": "Ai"}}),
            "created by Ai",
        ),
        (event("helpdesk.ticket.created_v1", {"status": "created", "guest": 1}), "created"),
        (
            event(
                "helpdesk.ticket.updated_v1",
                {
                    "object": {"status": "closed_by_user", "score": "satisfied"},
                    "old_object": {"score": "none", "status": "processing", "updated_at": "x"},
                },
            ),
            "status processing → closed_by_user, score none → satisfied",
        ),
        (event("helpdesk.ticket.updated_v1", {"object": None}), ""),
        (event("helpdesk.notification.approve_v1", {"approve_status": "APPROVED"}), "APPROVED"),
        (event("im.message.receive_v1", {"x": 1}), ""),
    ],
)
def test_a_record_tells_its_story(value: Any, story: str) -> None:
    assert summarize(seen(value))[2] == story


@pytest.mark.parametrize("raw", [b"not JSON", b"[]", b'{"data":1}', b"\xff", b'"text"'])
def test_what_is_no_event_is_shown_as_it_is(raw: bytes) -> None:
    assert summarize(seen(raw=raw)) == ("", "?", raw.decode(errors="replace"))


@pytest.mark.parametrize("depth", [300, 960, 990, 1010])
def test_value_of_any_depth_is_a_line(depth: int) -> None:
    """As text where it can be read, but not written again."""
    raw = b"[" * depth + b"1" + b"]" * depth
    made = json.loads(as_line(seen(raw=raw)))["value"]
    assert made == raw.decode() or json.dumps(made).encode() == raw


@pytest.mark.parametrize(
    ("event_type", "short"),
    [(MESSAGE, "message"), ("helpdesk.ticket.updated_v1", "updated"), ("odd", "odd")],
)
def test_types_are_shortened(event_type: str, short: str) -> None:
    assert short_type(event_type) == short


@pytest.mark.parametrize("width", [80, 100, 120, 200])
@pytest.mark.parametrize("text", ["short", "长" * 200, "x" * 200, "😭" * 50])
def test_a_line_fits_its_terminal(width: int, text: str) -> None:
    record = seen(event(MESSAGE, {"sender_type": "guest", "text": text}))
    line = render(record, "feishu.", width=width).plain
    assert cell_len(line) <= width
    assert line.endswith("3/42")


def test_a_dead_letter_is_red_and_gives_its_reason() -> None:
    record = seen(
        raw=b"\x00\x01",
        topic="feishu.dead_letter",
        headers=(("relay_reason", b"no_event_id"), ("relay_detail", b"the body has no event id")),
    )
    line = render(record, "feishu.")
    assert "dead_letter" in line.plain
    assert "no_event_id: the body has no event id" in line.plain
    assert any("red" in str(span.style) for span in line.spans)


@pytest.mark.parametrize(
    "hostile", ["\x1b[2J", "\x9b31m", "\x07", "a\rb", "a\nb", "\u202egnp.exe", "\u2028", "\x7f"]
)
def test_customers_text_cannot_drive_the_terminal(hostile: str) -> None:
    """Neither in the line for a person nor in the JSON for a program."""
    value = event(MESSAGE, {"sender_type": "guest", "text": hostile}, ticket_id=hostile)
    key = hostile.encode()
    for record in (
        seen(value, key=key),
        seen(value, key=key, headers=(("relay_reason", b"x"), ("relay_detail", hostile.encode()))),
    ):
        line, document = render(record).plain, as_line(record)
        for char in hostile:
            if printable(char) != char:
                assert char not in line
                assert char not in document
        assert hostile == json.loads(document)["value"]["data"]["text"]


def test_the_json_line_is_exact() -> None:
    record = seen({"id": 2**70, "text": "中"})
    assert json.loads(as_line(record)) == {
        "topic": "feishu.helpdesk.ticket_message",
        "partition": 3,
        "offset": 42,
        "timestamp": 1_700_000_000_000,
        "key": "6981801914270744596",
        "headers": {"ce_id": "e1"},
        "value": {"id": 2**70, "text": "中"},
    }


@pytest.mark.parametrize(
    ("raw", "name", "expected"),
    [(b"plain", "value", "plain"), (b"\xff\xfe", "value_base64", "//4="), (None, "value", None)],
)
def test_a_value_that_is_not_json_comes_as_text_or_base64(
    raw: bytes | None, name: str, expected: object
) -> None:
    record = seen(raw=raw) if raw is not None else replace(seen({}), value=None)
    assert json.loads(as_line(record))[name] == expected


def test_a_record_without_a_key_has_none() -> None:
    assert json.loads(as_line(seen({}, key=None)))["key"] is None


def test_a_long_id_keeps_its_last_digits_on_a_narrow_terminal() -> None:
    assert short_id("6981801914270744596", wide=False).strip() == "…70744596"
    assert short_id("123", wide=False).strip() == "123"
    assert short_id("6981801914270744596", wide=True).strip() == "6981801914270744596"

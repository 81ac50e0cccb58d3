"""What `relay dev` shows, drawn without a terminal."""

import errno
import io
from dataclasses import replace

from rich.console import Console

from relay.dev.view import Board, Lines, Places, Screen, _Frame, render_answer
from relay.observe.account import Account
from relay.simulator.sender import EXPECTED, NO_ANSWER, Answer, Kind
from relay.tail import Seen

PLACES = Places(
    command="relay",
    webhook="http://127.0.0.1:8080/webhook/event",
    admin="http://127.0.0.1:9090",
    console="http://dev:dev-password@127.0.0.1:9091",
    broker="127.0.0.1:9092 (embedded)",
    topic_prefix="feishu.",
    encrypt_key="dev-encrypt-key",
    verification_token="dev-token",
    plain_token="dev-token",
)


def account(received: int = 7) -> Account:
    return Account(received=received, published=3, duplicate=2, dead_letter=1, pending=1)


def answer(kind: Kind, status: int, problem: str = "") -> Answer:
    return Answer(
        kind=kind,
        event_id="e1",
        event_type="helpdesk.ticket_message.created_v1",
        ticket_id="6981801914270744596",
        status=status,
        expected=EXPECTED[kind],
        latency=0.0021,
        problem=problem,
    )


def record(event_id: str = "e1") -> Seen:
    return Seen(
        topic="feishu.helpdesk.ticket_message",
        partition=2,
        offset=11,
        timestamp=1_700_000_000_000,
        key=b"6981801914270744596",
        value='{"event":{"type":"helpdesk.ticket_message.created_v1"},"ticket_id":"6981801914270744596",'
        '"data":{"sender_type":"guest","text":"你好，VPN 连不上"}}'.encode(),
        headers=(("ce_id", event_id.encode()),),
    )


def drawn(board: Board, width: int, height: int) -> list[str]:
    """Draw a full-screen view and give its rows."""
    file = io.StringIO()
    console = Console(file=file, width=width, height=height, force_terminal=True, record=True)
    with Screen(board, console) as screen:
        for number in range(40):
            screen.answered(answer(Kind.EVENT, 200))
            screen.seen(record(f"e{number}"))
        screen.answered(answer(Kind.BAD_SIGNATURE, 401))
        console.export_text()
        screen.tick()
        return console.export_text().splitlines()


def test_the_screen_fits_and_tells_everything_at_both_sizes() -> None:
    for width, height in ((120, 36), (80, 24)):
        rows = drawn(Board(PLACES, account), width, height)
        text = "\n".join(rows)
        assert len(rows) <= height
        assert "refused, 401" in text
        assert "guest: 你好" in text
        assert "received 7 = published 3 + duplicate 2 + dead-lettered 1 + pending 1  ✓" in text
        assert PLACES.commands() in "\n".join(row.rstrip() for row in rows)


def test_a_small_screen_leaves_out_the_commands() -> None:
    text = "\n".join(drawn(Board(PLACES, account), 80, 16))
    assert "curl" not in text
    assert "pending 1" in text


def test_without_a_screen_a_frame_is_all_of_it() -> None:
    console = Console(file=io.StringIO(), width=80, height=16, record=True)
    console.print(_Frame(Board(PLACES, account)))
    assert len(console.export_text().splitlines()) == 16


def test_a_log_line_shows_and_cannot_drive_the_terminal() -> None:
    board = Board(PLACES, account)
    board.notes.append("kafka_unavailable\x1b[2J")
    rows = drawn(board, 80, 24)
    assert any("kafka_unavailable [2J" in row for row in rows)
    assert len(rows) <= 24


def test_an_account_that_does_not_add_up_says_so() -> None:
    assert "does not add up" in Board(PLACES, lambda: account(8)).account_line().plain


def test_account_of_a_ticket_adds_up_too() -> None:
    line = Board(PLACES, lambda: replace(account(8), withheld=1)).account_line().plain
    assert "+ dead-lettered 1 + withheld 1 + pending 1  ✓" in line


def test_what_must_not_happen_stands_out() -> None:
    board = Board(PLACES, account)
    board.seen(record())
    board.seen(record())
    board.answered(answer(Kind.EVENT, NO_ANSWER, "connection refused"))
    assert "TWICE 1 · UNEXPECTED 1" in board.figures_line().plain


def test_a_pushed_event_is_acknowledged_not_answered() -> None:
    """It came over the long connection; what no ack came for says so."""
    taken = replace(answer(Kind.EVENT, 200), pushed=True)
    assert "acknowledged 200" in render_answer(0, taken, 120).plain
    assert "200 OK" in render_answer(0, replace(taken, pushed=False), 120).plain
    lost = replace(taken, status=NO_ANSWER, problem="not acknowledged")
    assert "not acknowledged, must be 200" in render_answer(0, lost, 120).plain


def test_a_record_without_an_id_is_no_repeat() -> None:
    board = Board(PLACES, account)
    for _ in range(2):
        board.seen(
            Seen(topic="t", partition=0, offset=0, timestamp=0, key=None, value=None, headers=())
        )
    assert board.twice == 0


def test_rates_look_at_the_last_seconds_only() -> None:
    board = Board(PLACES, account)
    board.answered(answer(Kind.EVENT, 200))
    board._in[0] -= 60
    assert "in 0.0/s" in board.figures_line().plain


def test_without_a_terminal_each_thing_is_one_line() -> None:
    out, gone = io.StringIO(), []
    board = Board(PLACES, account)
    with Lines(board, out, lambda: gone.append(1)) as lines:
        lines.answered(answer(Kind.REPEAT, 200))
        lines.answered(answer(Kind.EVENT, NO_ANSWER, "connection refused"))
        lines.seen(record())
        board.notes.append("kafka_unavailable")
        lines.tick()
        lines._next_account = 0
        lines.tick()
    text = out.getvalue()
    assert PLACES.commands() in text
    for part in (
        "in  ",
        "repeat",
        "connection refused, must be 200",
        "out ",
        "log      kafka_unavailable",
        "account  received 7",
    ):
        assert part in text
    assert not gone


def test_when_nobody_reads_any_more_it_ends() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(errno.EPIPE, text)

    gone: list[int] = []
    with Lines(Board(PLACES, account), Closed(), lambda: gone.append(1)) as lines:
        lines.seen(record())
    assert gone


def test_without_a_key_the_command_names_none() -> None:
    places = Places(
        command="relay",
    webhook="w", admin="a", console="c", broker="b", topic_prefix="", encrypt_key="",
        verification_token="t", plain_token="t",
    )  # fmt: skip
    assert "--encrypt-key" not in places.commands()

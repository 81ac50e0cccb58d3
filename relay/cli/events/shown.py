"""How events look on a terminal: a list of them, and the life of one, each step with its time."""

import time
from collections.abc import Iterator, Sequence

from relay.contract.printable import printable
from relay.events import EXPORTED, OTHER_REPLICA, Outcome
from relay.journal.rows.lives import Life
from relay.journal.view import PENDING

#: Columns below which an event takes two lines.
NARROW = 120
HEAD = ("received", "event id", "outcome", "ticket", "where", "type", "app")
_ENDS = {
    OTHER_REPLICA: "another replica had claimed it, and publishes it",
    EXPORTED: "handed over to another replica: relay events export",
}
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def lines(lives: Sequence[Life], width: int | None) -> Iterator[str]:
    """Give a line for each event; on a narrow terminal two. Nothing cuts them without a width."""
    if width is not None and width < NARROW:
        yield from _narrow(lives)
        return
    rows = [HEAD, *map(_cells, lives)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(map(str.ljust, row, widths)).rstrip()
        yield (
            line
            if width is None or len(line) <= width
            else f"{line[: width - 1]}\N{HORIZONTAL ELLIPSIS}"
        )


def _cells(life: Life) -> tuple[str, ...]:
    """What is seldom asked for stands last: a terminal may have no room for it."""
    cells = (
        _moment(life.received_at)[:19],
        life.event_id,
        _ending(life),
        life.ticket or "-",
        _where(life),
        life.event_type or "-",
        life.app,
    )
    return tuple(map(printable, cells))


def _narrow(lives: Sequence[Life]) -> Iterator[str]:
    endings = [printable(_ending(life)) for life in lives]
    most = max(map(len, endings))
    for life, ending in zip(lives, endings, strict=True):
        ticket = f"ticket {life.ticket}" if life.ticket else ""
        yield f"{_moment(life.received_at)[:19]}  {ending:<{most}}  {printable(ticket)}".rstrip()
        where = _where(life) if life.topic else life.event_type
        yield printable(f"  {life.event_id}  {where}")


def _ending(life: Life) -> str:
    return f"{life.outcome}: {life.reason}" if life.reason else life.outcome


def _where(life: Life) -> str:
    if life.topic is None:
        return "-"
    place = "?" if life.offset is None else f"{life.partition}@{life.offset}"
    return f"{life.topic}/{place}"


def life_lines(life: Life, replica: str) -> Iterator[str]:
    """Give what is known of an event, a line for each step: when, how long after, what."""
    yield f"{life.event_id}  {life.event_type or '(no type)'}  app {life.app}"
    names = (("ticket", life.ticket), ("message", life.message_id))
    known = "  ".join(f"{name} {value}" for name, value in names if value)
    if known:
        yield known
    yield ""
    how = f"by {life.transport.value}, replica {replica}"
    steps = [
        (life.received_at, "received", f"{how}; replayed" if life.replayed else how),
        (life.stored_at, "on disk", ""),
        (life.claimed_at, "claimed", ""),
        (life.settled_at, *_end(life)),
    ]
    before = life.received_at
    for number, (at, what, detail) in enumerate(steps):
        if at is None and what == "claimed":
            continue
        wait = "" if at is None or not number else f"+{_span(at - before)}"
        when = "-" if at is None else _moment(at)
        said = detail or ("" if at is not None else "(the time is not noted)")
        yield f"{when:<23}  {wait:>9}  {what:<11}  {said}".rstrip()
        before = before if at is None else at


def _end(life: Life) -> tuple[str, str]:
    """Say how it ended, and where its record lies or why there is none."""
    if life.outcome == PENDING:
        waits = _span(int(time.time() * 1000) - life.received_at)
        why = f"; the broker has refused its record: {life.reason}" if life.reason else ""
        return "pending", f"it waits for {waits}{why}"
    if life.outcome == Outcome.PUBLISHED:
        return "published", _lies(life)
    if life.outcome == Outcome.DEAD_LETTER:
        return "dead letter", f"{life.reason}; {_lies(life)}"
    if life.outcome == Outcome.WITHHELD:
        return "withheld", "an app's ticket: for no topic"
    return life.outcome, _ENDS.get(life.reason or "", life.reason or "")


def _lies(life: Life) -> str:
    if life.topic is None:
        return "where is not known: an earlier version of relay has settled it"
    if life.offset is None:
        return f"{life.topic}, at an offset that is not known: a crash has cost Kafka's answer"
    return f"{life.topic}/{life.partition}@{life.offset}"


def _moment(at: int) -> str:
    from relay.contract.rules.values import rfc3339

    return rfc3339(at).replace("T", " ").removesuffix("Z")


def _span(milliseconds: int) -> str:
    """Give a time as a person says it."""
    seconds = milliseconds / 1000
    if abs(seconds) < 1:
        return f"{milliseconds} ms"
    for unit, size, most in (("s", 1, 2 * _MINUTE), ("min", _MINUTE, 2 * _HOUR)):
        if abs(seconds) < most:
            return f"{seconds / size:.1f} {unit}" if size == 1 else f"{seconds / size:.0f} {unit}"
    unit, size = ("h", _HOUR) if abs(seconds) < 2 * _DAY else ("d", _DAY)
    return f"{seconds / size:.0f} {unit}"

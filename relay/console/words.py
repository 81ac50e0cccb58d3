"""How the pages say things: times, sizes, counts, and what an operator is to do. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from relay.console.said import Answer, Link, Overview, Shown
from relay.events import OTHER_REPLICA, DeadLetterReason
from relay.journal.view import UNDECIDED

#: Milliseconds after which an event that Kafka does not have needs a person.
LATE = 60_000
#: The part of `journal.max_bytes` from which a person should know.
NEARLY_FULL = 0.9
_SECOND = 1000
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024
#: The last millisecond of the year 9999.
_LAST = 253_402_300_799_999


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Something that needs a person."""

    replica: str
    sentence: str
    link: str = ""


def moment(at: int | None) -> str:
    """Write a Unix time in milliseconds in UTC, to the second."""
    return _written(at, "%Y-%m-%d %H:%M:%S UTC")


def clock(at: int) -> str:
    """Write it for a column whose head says that it is UTC."""
    return _written(at, "%Y-%m-%d %H:%M:%S")


def exact(at: int) -> str:
    """Write it to the millisecond."""
    return f"{clock(at)}.{at % _SECOND:03} UTC"


def machine(at: int | None) -> str:
    """Write it for `<time>`."""
    return _written(at, "%Y-%m-%dT%H:%M:%SZ")


def _written(at: int | None, form: str) -> str:
    return (
        "" if at is None else f"{datetime.fromtimestamp(min(max(at, 0), _LAST) / 1000, UTC):{form}}"
    )


def span(milliseconds: float) -> str:
    """Say how long something takes, in its largest unit."""
    if 0 < milliseconds < _SECOND:
        return f"{milliseconds:.0f} ms"
    seconds = max(milliseconds, 0) / _SECOND
    for size, name in _UNITS:
        if seconds >= size:
            return f"{int(seconds / size)} {name}"
    return "0 s"


def ago(at: int | None, now: int) -> str:
    """Say how long ago; a clock that is ahead is not told."""
    return "" if at is None else f"{span(max(now - at, 0) // _SECOND * _SECOND)} ago"


def size(count: float) -> str:
    """Write bytes."""
    step = 0
    while count >= _STEP and step < len(_SIZES) - 1:
        count, step = count / _STEP, step + 1
    return f"{count:.1f} {_SIZES[step]}" if step else f"{count:.0f} B"


def number(count: int) -> str:
    """Write a count, in groups of three."""
    return f"{count:,}"


def attention(answers: Sequence[Answer[Overview]]) -> list[Attention]:
    """List what needs a person, replica by replica."""
    found = []
    for answer in answers:
        said = _missing(answer) if answer.said is None else _wanting(answer.said)
        found += [Attention(replica=answer.name, sentence=one) for one in said]
    return found


def _missing(answer: Answer[Overview]) -> list[str]:
    return [f"does not answer: {answer.problem}. What it holds is not in these figures."]


def _wanting(said: Overview) -> Iterator[str]:
    if not said.balanced:
        yield "its account does not balance: please report this"
    if not said.journal:
        yield "its journal cannot be opened: the volume is full"
    elif not said.ready and not said.draining:
        yield "takes no events: its journal is full or cannot be written"
    disk = said.disk
    if disk and disk.used > NEARLY_FULL * disk.maximum:
        yield f"its journal is nearly full: {size(disk.used)} of {size(disk.maximum)}"
    if said.oldest_pending is not None and said.now - said.oldest_pending > LATE:
        yield f"an event has waited {span(said.now - said.oldest_pending)} for Kafka"
    if waiting := sum(said.letters.get(reason, 0) for reason in UNDECIDED):
        yield f"dead letters of which only its journal has the body: {number(waiting)}"
    yield from _failing(said)


def _failing(said: Overview) -> Iterator[str]:
    links = [("Kafka", said.kafka)] + ([("the claims store", said.claims)] if said.claims else [])
    links += [(f"the long connection of {link.name}", link) for link in said.connections]
    for what, link in links:
        if not link.up and link.trouble and link.trouble.until is None:
            yield f"{what}: {link.trouble.error}"


def standing(link: Link) -> str:
    """Say how a link is, in a word."""
    if link.up:
        return "connected"
    return "failing" if link.trouble and link.trouble.until is None else "not connected yet"


_LOOK, _SAME = "Look at the body", "A replay brings the same."
#: What to do with a dead letter, as docs/contract.md has it.
REMEDIES = {
    DeadLetterReason.NOT_JSON: f"{_LOOK}: somebody sent what is no JSON. {_SAME}",
    DeadLetterReason.NOT_AN_OBJECT: f"{_LOOK}: Feishu, or somebody with the key, sent it. {_SAME}",
    DeadLetterReason.NO_EVENT_ID: f"{_LOOK}: it has no event id, or too long a one. {_SAME}",
    DeadLetterReason.NO_EVENT_TYPE: f"{_LOOK}: there is an id, but no type. {_SAME}",
    DeadLetterReason.TOO_LARGE: "Raise the topic's max.message.bytes, then replay; or discard.",
    DeadLetterReason.REFUSED: (
        "Look at the topic's settings and at what checks its records, then replay or discard."
    ),
    DeadLetterReason.INTERNAL_ERROR: "A fault of relay's: keep it, upgrade, then replay.",
}
_NO_TIME = "“{}” is no time: write 2h, 2026-01-31 or 2026-01-31 08:30"
_UNIT_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A point in an event's life; `after` is the wait since the step before."""

    name: str
    at: int | None
    after: str
    detail: str = ""
    wrong: bool = False


def story(shown: Shown) -> list[Step]:
    """Tell an event's life, step by step."""
    life = shown.life
    place = f"{life.transport}, {shown.name}"
    steps: list[tuple[str, int | None, str]] = [("received", life.received_at, place)]
    stored = "" if life.stored_at else "at a time that is not known"
    steps.append(("on disk", life.stored_at, stored))
    if life.claimed_at is not None:
        steps.append(("claimed", life.claimed_at, "this replica publishes it"))
    steps.append((_ENDS.get(life.outcome, life.outcome), life.settled_at, _ending(shown)))
    told, last = [], None
    for name, at, detail in steps:
        after = "" if at is None or last is None else f"+ {span(at - last)}"
        wrong = life.outcome == "dead_letter" and name == _ENDS["dead_letter"]
        told.append(Step(name=name, at=at, after=after, detail=detail, wrong=wrong))
        last = last if at is None else at
    return told


_ENDS = {"dead_letter": "dead letter", "pending": "waits for Kafka"}


def _ending(shown: Shown) -> str:
    life = shown.life
    if life.outcome == "published":
        if life.topic is None:
            return "its place on Kafka is not known"
        where = "" if life.partition is None else f"/{life.partition}@{life.offset}"
        return f"{life.topic}{where}"
    if life.outcome == "duplicate":
        return (
            "another replica had claimed it" if life.reason == OTHER_REPLICA else life.reason or ""
        )
    return life.reason or ""


def arrivals(answers: Sequence[Answer[Overview]]) -> list[tuple[str, str, int]]:
    """Say when each type last came, to any replica: type, app and time, the latest first."""
    latest: dict[tuple[str, str], int] = {}
    for answer in answers:
        for one in answer.said.arrivals if answer.said else ():
            place = one.event_type, one.app
            latest[place] = max(one.at, latest.get(place, one.at))
    return sorted(((*place, at) for place, at in latest.items()), key=lambda row: -row[2])


def with_instants(given: Mapping[str, str], now: int) -> dict[str, str]:
    """Read the times of a form. Raises ValueError with a sentence."""
    read = dict(given)
    for name in ("since", "until"):
        if name in given:
            read[name] = str(_instant(given[name], now))
    return read


def _instant(text: str, now: int) -> int:
    """Read `2h` (ago), a date, a date and time in UTC, or milliseconds."""
    if text.isascii() and text.isdecimal():
        return int(text)
    if match := re.fullmatch(r"([0-9]{1,6}) ?(s|m|min|h|d)(?: ago)?", text):
        return max(now - int(match[1]) * _UNIT_SECONDS[match[2]] * _SECOND, 0)
    try:
        at = datetime.fromisoformat(text.removesuffix("UTC").strip())
    except ValueError:
        raise ValueError(
            f"“{text[:40]}” is no time: write 2h, 2026-01-31 or 2026-01-31 08:30"
        ) from None
    return max(int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * _SECOND), 0)

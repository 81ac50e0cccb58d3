"""How the pages say things: times, sizes, counts, and what an operator is to do. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from relay.console.said import Answer, Link, Overview

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

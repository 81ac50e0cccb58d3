"""`relay check`: looks at everything a relay depends on, and changes nothing.

Each finding has a code that stays, so that a script can tell them apart (`remedies`).
"""

import asyncio
import os
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp

from relay.cli import remedies
from relay.cli.say import console, note
from relay.contract import exactjson
from relay.contract.normalize import Router, first_id
from relay.contract.printable import printable
from relay.egress.kafka import durability, topics
from relay.egress.kafka.faults import translated
from relay.egress.kafka.packing import Packing
from relay.egress.kafka.producer import Producer
from relay.errors import (
    JournalDeniedError,
    JournalError,
    JournalLockedError,
    PublishError,
    RelayError,
    TopicDeniedError,
    TopicMissingError,
)
from relay.feishu.api import Feishu
from relay.journal import file
from relay.journal import view as journalview
from relay.journal.disk import mounts
from relay.journal.retention import Retention
from relay.observe.metrics import Metrics
from relay.settings import App, Delivery, Settings

#: Events of the journal, the latest ones, in which keys are looked for.
_KEYS_LOOK = 500
#: Seconds between two looks while something is waited for.
_PAUSE = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was looked at, whether it will do, and a sentence about it."""

    subject: str
    passed: bool
    sentence: str
    #: What it is called for ever, what to do next, and where that is explained.
    code: str
    advice: str = ""
    place: str = ""
    #: It will do, and there is something that an operator should know.
    warning: bool = False

    @property
    def status(self) -> str:
        """`ok`, `warn` or `fail`."""
        if self.warning:
            return "warn"
        return "ok" if self.passed else "fail"

    def document(self) -> dict[str, str]:
        """Give it as JSON has it."""
        found = {"code": self.code, "status": self.status, "subject": self.subject}
        found |= {"sentence": self.sentence, "advice": self.advice, "docs": self.place}
        return {name: text for name, text in found.items() if text}


async def findings(settings: Settings) -> AsyncIterator[Finding]:
    """Look at one thing after the other; what depends on a failed one is left out."""
    apps = ", ".join(sorted(settings.apps))
    yield _good("settings", f"complete; apps: {apps}")
    yield await _finding("journal", lambda: _journal(settings))
    if settings.kafka.keys:
        yield await _finding("keys", lambda: _keys(settings))
    reachable = await _finding("kafka", lambda: _brokers(settings))
    yield reachable
    if reachable.passed:
        yield await _finding("topics", lambda: _topics(settings))
        yield await _finding("copies", lambda: _copies(settings))
        if settings.kafka.delivery is Delivery.EXACTLY_ONCE:
            yield await _finding("transactions", lambda: _transactions(settings))
    if settings.claims.url.get_secret_value():
        yield await _finding("claims", lambda: _claims(settings))
    for name, app in sorted(settings.apps.items()):
        if app.app_id and app.app_secret.get_secret_value():
            yield await _finding(f"app {name}", partial(_app, settings, app))


def failed(subject: str, error: RelayError) -> Finding:
    """Give the finding that an error is."""
    found = remedies.of(error)
    return Finding(
        subject=subject,
        passed=False,
        sentence=str(error),
        code=found.code,
        advice=found.advice,
        place=found.place,
    )


def _good(subject: str, sentence: str) -> Finding:
    return Finding(
        subject=subject, passed=True, sentence=sentence, code=f"{subject.split(maxsplit=1)[0]}_ok"
    )


@dataclass(frozen=True, slots=True)
class _Worry:
    """A sentence about something that will do, and should not stay so."""

    code: str
    sentence: str


_MARKS = {"ok": "[green]ok[/]  ", "warn": "[yellow]warn[/]", "fail": "[red]FAIL[/]"}


def show(finding: Finding) -> None:
    """Print a finding for a person."""
    out = console()
    out.print(f"{_MARKS[finding.status]} [bold]{finding.subject:13}[/]", end="")
    lines = [finding.sentence]
    if finding.advice:
        lines.append(f"{'':18}{finding.code}: {finding.advice} ({finding.place})")
    for line in lines:
        out.print(printable(line), markup=False, highlight=False, soft_wrap=True)


async def settled(
    look: Callable[[], AsyncIterator[Finding]], wait: float, show: Callable[[Finding], None]
) -> bool:
    """Look until nothing fails, for at most `wait` seconds, and show what was found last.

    A look that is under way then goes on to its end. Without a wait each finding is shown at once.
    """
    end, failing = time.monotonic() + wait, ""
    while time.monotonic() + _PAUSE < end:
        found = [finding async for finding in look()]
        if all(finding.passed for finding in found):
            for finding in found:
                show(finding)
            return True
        now = ", ".join(finding.code for finding in found if not finding.passed)
        if now != failing:
            note(f"waiting: {now}")
        failing = now
        await asyncio.sleep(_PAUSE)
    passed = True
    async for finding in look():
        show(finding)
        passed &= finding.passed
    return passed


async def _finding(subject: str, look: Callable[[], Awaitable[str | _Worry]]) -> Finding:
    try:
        found = await look()
    except RelayError as error:
        return failed(subject, error)
    return _good(subject, found) if isinstance(found, str) else _worry(subject, found)


def _worry(subject: str, found: _Worry) -> Finding:
    remedy = remedies.WARNINGS[found.code]
    return Finding(
        subject=subject,
        passed=True,
        warning=True,
        sentence=found.sentence,
        code=remedy.code,
        advice=remedy.advice,
        place=remedy.place,
    )


async def _journal(settings: Settings) -> str:
    path = settings.journal.path
    if not settings.journal.network_volume:
        mounts.refuse_remote(path)
    if not path.exists():
        parent = next(p for p in path.absolute().parents if p.exists())
        if not os.access(parent, os.W_OK):
            raise JournalDeniedError(f"{path}: cannot be made: {parent} is not writable")
        return f"{path}: will be made at the first start"
    file.check_header(path)
    state = "sound"
    try:
        file.lock(path, patience=0).close()
        file.check_pages(path)
    except JournalLockedError:
        state = "in use by a running relay"
    file.check_writable(path)
    remote = mounts.remote_type(path)
    return f"{path}: {state}" + (f"; on a network file system ({remote})" if remote else "")


async def _keys(settings: Settings) -> str | _Worry:
    """Look at what has come: a path that leads nowhere stops nothing, and nobody would notice."""
    router = Router(*settings.kafka.routes)
    seen: Counter[str] = Counter()
    found: Counter[str] = Counter()
    with suppress(JournalError), journalview.opened(settings.journal.path) as view:
        for event_type, body in view.newest(_KEYS_LOOK):
            path = router.key_path(event_type)
            if path and (event := _event(body)) is not None:
                seen[event_type] += 1
                found[event_type] += first_id(event, (path,)) is not None
    if not seen:
        return "none of the events that kafka.keys names has come lately"
    lines = [
        f"{printable(name)}: {found[name]} of {count} have {'.'.join(router.key_path(name))}"
        for name, count in sorted(seen.items())
    ]
    nowhere = [name for name in seen if name in settings.kafka.keys and not found[name]]
    said = "; ".join(lines)
    return _Worry("keys_nowhere", said) if nowhere else said


def _event(body: bytes) -> dict[str, Any] | None:
    with suppress(ValueError):
        document = exactjson.loads(body)
        event = document.get("event") if isinstance(document, dict) else None
        return event if isinstance(event, dict) else None
    return None


async def _brokers(settings: Settings) -> str:
    async with translated(settings.kafka.bootstrap_servers):
        cluster = await topics.ask_brokers(settings.kafka)
    return f"{settings.kafka.bootstrap_servers}: {cluster}"


async def _topics(settings: Settings) -> str:
    router = Router(*settings.kafka.routes)
    async with translated(settings.kafka.bootstrap_servers):
        missing = await topics.absent(settings.kafka, router.topics)
    if missing and not settings.kafka.create_topics:
        raise TopicMissingError(topics.missing(missing, "kafka.create_topics is off"))
    return f"will be created: {', '.join(missing)}" if missing else "all there"


async def _copies(settings: Settings) -> str | _Worry:
    """Warn where the death of one broker could lose what was published."""
    router = Router(settings.kafka.topic_prefix, settings.kafka.topics)
    try:
        async with (
            translated(settings.kafka.bootstrap_servers),
            asyncio.timeout(settings.kafka.timeout),
        ):
            found = await durability.copies(settings.kafka, router.topics)
    except PublishError as error:
        return f"cannot be read: {error}"
    if frail := durability.frail(found):
        sentence = f"the death of one broker may lose what was published: {'; '.join(frail)}"
        return _Worry("copies_frail", sentence)
    return "whatever is acknowledged is on more than one disk" if found else "no topic is there yet"


async def _transactions(settings: Settings) -> str:
    """Start a transactional producer under an id of its own, as `relay serve` will under its.

    Its transaction has no record, and is aborted: no consumer sees any of it, however it reads.
    """
    name, place = f"relay-check-{uuid.uuid4()}", topics.journal_topic(settings.kafka)
    wanted = Router(*settings.kafka.routes).topics
    async with (
        translated(settings.kafka.bootstrap_servers),
        asyncio.timeout(settings.kafka.timeout),
    ):
        producer = Producer.to(settings.kafka, name, Packing())
        try:
            await producer.start()
            missing = await topics.absent(settings.kafka, wanted)
            there = sorted(set(wanted) - set(missing))
            await producer.begin()
            forbidden = await producer.forbidden(there) if there else []
            if place not in missing:
                await producer.carry_offset(name, place, 0)
            await producer.abort()
        finally:
            await producer.discard()
    if forbidden:
        raise TopicDeniedError(f"Kafka refuses: no right to write to {', '.join(forbidden)}")
    tried = ["start"] + ["write to the topics"] * bool(there)
    tried += ["carry an offset"] * (place not in missing)
    return f"can {', '.join(tried)}"


async def _claims(settings: Settings) -> str | _Worry:
    """Connect to the claims store, and ask for its version and for whom a start would wait."""
    from relay.claims.claims import Claims
    from relay.claims.seeding import awaited, lacking, lacks

    claims = Claims(settings.claims, Retention(settings.journal.dedupe_window), Metrics())
    version, eviction = await claims.about()
    after, own = settings.claims.after, settings.claims.replica
    try:
        waits = after not in {"", own} and not _has_waited(settings, after)
        if waits and not await claims.announced(after):
            raise awaited(after)
        absent = await lacking(claims, own)
    finally:
        await claims.close()
    answers = f"the store answers, version {version}"
    if absent:
        return _Worry("claims_lacking", f"{answers}; {lacks(absent)}")
    if eviction:
        return _Worry(
            "claims_evicting",
            f"{answers}; when it is full it forgets claims (maxmemory-policy {eviction}), and an"
            " event may go out twice: set noeviction",
        )
    return answers


def _has_waited(settings: Settings, replica: str) -> bool:
    """Whether the journal has waited for a replica's past for as long as that can matter."""
    with suppress(JournalError), journalview.opened(settings.journal.path) as view:
        return view.waited_for(replica) >= settings.journal.dedupe_window
    return False


async def _app(settings: Settings, app: App) -> str:
    """Try the app's credentials; with a long connection, look who else has one."""
    async with aiohttp.ClientSession() as session:
        feishu = Feishu(session, settings.feishu(app))
        token = await feishu.tenant_token(app.app_id, app.app_secret.get_secret_value())
        if not app.long_connection:
            return f"{app.app_id}: the credentials work"
        await feishu.endpoint(app.app_id, app.app_secret.get_secret_value())
        count = await feishu.online_clients(token)
    return f"{app.app_id}: the credentials work; {_clients(count)}"


def _clients(count: int) -> str:
    """Say what the number of open connections means."""
    if not count:
        return "no client is online: no relay runs with this app's long connection"
    if count == 1:
        return "1 client is online"
    return (
        f"{count} clients are online: each takes a share of the events, "
        "so there must be as many replicas of relay, and nothing else"
    )

"""`relay check`: looks at everything a relay depends on, and changes nothing."""

import asyncio
import os
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import aiohttp

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
    KafkaRefusedError,
    PublishError,
    RelayError,
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was looked at, whether it will do, and a sentence about it."""

    subject: str
    passed: bool
    sentence: str
    #: It will do, and there is something that an operator should know.
    warning: bool = False


async def findings(settings: Settings) -> AsyncIterator[Finding]:
    """Look at one thing after the other; what depends on a failed one is left out."""
    apps = ", ".join(sorted(settings.apps))
    yield Finding(subject="settings", passed=True, sentence=f"complete; apps: {apps}")
    yield await _finding("journal", lambda: _journal(settings))
    if settings.kafka.keys:
        yield await _finding("keys", lambda: _keys(settings))
    reachable = await _finding("kafka", lambda: _brokers(settings))
    yield reachable
    if reachable.passed:
        yield await _finding("topics", lambda: _topics(settings))
        yield await _copies(settings)
        if settings.kafka.delivery is Delivery.EXACTLY_ONCE:
            yield await _finding("transactions", lambda: _transactions(settings))
    if settings.claims.url.get_secret_value():
        yield await _finding("claims", lambda: _claims(settings))
    for name, app in sorted(settings.apps.items()):
        if app.app_id and app.app_secret.get_secret_value():
            yield await _finding(f"app {name}", partial(_app, settings, app))


class _Worry(str):
    """A sentence about something that will do, and should not stay so."""

    __slots__ = ()


async def _finding(subject: str, look: Callable[[], Awaitable[str]]) -> Finding:
    try:
        sentence = await look()
    except RelayError as error:
        return Finding(subject=subject, passed=False, sentence=str(error))
    warning = isinstance(sentence, _Worry)
    return Finding(subject=subject, passed=True, warning=warning, sentence=sentence)


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


async def _keys(settings: Settings) -> str:
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
    return _Worry("; ".join(lines)) if nowhere else "; ".join(lines)


def _event(body: bytes) -> dict[str, Any] | None:
    with suppress(ValueError):
        document = exactjson.loads(body)
        event = document.get("event") if isinstance(document, dict) else None
        return event if isinstance(event, dict) else None
    return None


async def _brokers(settings: Settings) -> str:
    async with translated():
        cluster = await topics.ask_brokers(settings.kafka)
    return f"{settings.kafka.bootstrap_servers}: {cluster}"


async def _topics(settings: Settings) -> str:
    router = Router(*settings.kafka.routes)
    async with translated():
        missing = await topics.absent(settings.kafka, router.topics)
    if missing and not settings.kafka.create_topics:
        raise KafkaRefusedError(topics.missing(missing, "kafka.create_topics is off"))
    return f"will be created: {', '.join(missing)}" if missing else "all there"


async def _copies(settings: Settings) -> Finding:
    """Warn where the death of one broker could lose what was published."""
    router = Router(settings.kafka.topic_prefix, settings.kafka.topics)
    frail, sentence = [], "no topic is there yet"
    try:
        async with translated(), asyncio.timeout(settings.kafka.timeout):
            found = await durability.copies(settings.kafka, router.topics)
    except PublishError as error:
        sentence = f"cannot be read: {error}"
    else:
        frail = durability.frail(found)
        if frail:
            sentence = f"the death of one broker may lose what was published: {'; '.join(frail)}"
        elif found:
            sentence = "whatever is acknowledged is on more than one disk"
    return Finding(subject="copies", passed=True, warning=bool(frail), sentence=sentence)


async def _transactions(settings: Settings) -> str:
    """Start a transactional producer under an id of its own, as `relay serve` will under its."""
    name, place = f"relay-check-{uuid.uuid4()}", topics.journal_topic(settings.kafka)
    async with translated(), asyncio.timeout(settings.kafka.timeout):
        producer = Producer.to(settings.kafka, name, Packing())
        try:
            await producer.start()
            there = place not in await topics.absent(settings.kafka, [])
            if there:
                await producer.begin()
                await producer.carry_offset(name, place, 0)
                await producer.abort()
        finally:
            await producer.discard()
    tried = "start and carry an offset" if there else "start"
    return f"can {tried} (the right to write to the topics is not tried: it would leave records)"


async def _claims(settings: Settings) -> str:
    """Connect to the claims store, and ask for its version and for whom a start would wait."""
    from relay.claims.claims import Claims
    from relay.claims.seeding import awaited

    claims = Claims(settings.claims, Retention(settings.journal.dedupe_window), Metrics())
    version, eviction = await claims.about()
    after = settings.claims.after
    if after not in {"", settings.claims.replica} and not _has_waited(settings, after):
        try:
            if not await claims.announced(after):
                raise awaited(after)
        finally:
            await claims.close()
    answers = f"the store answers, version {version}"
    if eviction:
        return _Worry(
            f"{answers}; when it is full it forgets claims (maxmemory-policy {eviction}), and an"
            " event may go out twice: set noeviction"
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

"""The composition root: builds every part, starts them in order and stops them in order."""

import asyncio
import contextlib
import ctypes
import gc
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from relay import __version__
from relay.admin import AdminServer
from relay.contract.normalize import Router
from relay.egress import routing
from relay.egress.dispatcher import Dispatcher
from relay.egress.kafka import durability
from relay.egress.kafka.faults import translated
from relay.egress.publisher import AtLeastOncePublisher, ExactlyOncePublisher, Publisher
from relay.errors import JournalNoSpaceError, PublishError, StoppedWorkingError
from relay.ingress.pipeline import Pipeline
from relay.ingress.webhook import WebhookServer
from relay.journal import handover
from relay.journal.disk import mounts
from relay.journal.journal import Journal
from relay.observe.escapes import Escapes
from relay.observe.logs import Changes
from relay.observe.metrics import Metrics
from relay.settings import Delivery, Settings

if TYPE_CHECKING:
    from relay.claims.claims import Claims
    from relay.console.replica import Parts
    from relay.ingress.longconn import LongConnection
    from relay.observe.spans import Spans

log = structlog.get_logger()

#: glibc's name for a limit of mallopt(3), and the limit: free bytes at the heap's end to keep.
_M_TRIM_THRESHOLD, KEPT_FREE = -1, 128 * 1024
#: Seconds between two looks whether the journal's volume has space.
SPACE_LOOK = 1.0
#: New objects before a collection: one batch's events, not one request's.
GC_THRESHOLD = 20_000


class Relay:
    """One process: made of settings, run once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.metrics = Metrics()
        #: Set when the webhook listens.
        self.ready = asyncio.Event()
        self.webhook_port = self.admin_port = self.console_port = 0
        self._draining = False
        self._space = Changes(log, "journal_volume_has_space")

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then drain. Raises JournalError, FencedError or OSError."""
        settings = self._settings
        _give_memory_back()
        _allow_descriptors()
        async with contextlib.AsyncExitStack() as stack:
            journal = self._journal_if_space(stack)
            pipeline = Pipeline(settings.apps, journal)
            self.metrics.expect(settings.apps)
            admin = AdminServer(settings.admin, journal, self.metrics, lambda: self._draining)
            webhook = WebhookServer(
                settings.webhook, settings.apps, pipeline.accept, self.metrics, admin.unready
            )
            stack.push_async_callback(admin.stop)
            self.admin_port = await admin.start()
            stack.push_async_callback(webhook.stop)
            self.webhook_port = await webhook.start()
            parts = await self._console(stack)
            journal = journal or await self._journal_when_space(stack, stop)
            if journal is None:
                return
            pipeline.journal = admin.journal = journal
            connections = self._long_connections(pipeline)
            dispatcher = self._dispatcher(journal, stack)
            if parts:
                parts.serve(journal, dispatcher.changes, dispatcher.claims_changes)
                parts.connections = {one.app: one.changes for one in connections}
            await self._serve(journal, dispatcher, [webhook, *connections], stop)

    def _journal_if_space(self, stack: contextlib.AsyncExitStack) -> Journal | None:
        """Open the journal, or say that its volume is full; any other refusal ends the start."""
        try:
            journal = self._journal(stack)
        except JournalNoSpaceError as error:
            self._space.failing("journal_volume_full", str(error))
            return None
        self._space.working()
        return journal

    async def _journal_when_space(
        self, stack: contextlib.AsyncExitStack, stop: asyncio.Event
    ) -> Journal | None:
        """Try again, every second, until the volume has space; None if relay is to stop before."""
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), SPACE_LOOK)
            if not stop.is_set() and (journal := self._journal_if_space(stack)):
                return journal
        return None

    async def drain(self, timeout: float) -> int:  # noqa: ASYNC109 - a bound for all of it
        """Publish what the journal holds, and take nothing; give how many events are left.

        Raises JournalError or FencedError.
        """
        async with contextlib.AsyncExitStack() as stack:
            journal = self._journal(stack)
            dispatcher = self._dispatcher(journal, stack)
            if not self.metrics.account().pending:
                return 0
            async with asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(self._watch(journal))
                dispatching = tasks.create_task(dispatcher.run())
                await self._emptied(dispatcher, timeout)
                dispatching.cancel()
                watching.cancel()
        return self.metrics.account().pending

    async def export(self, target: Path) -> int:
        """Write what is pending and not in Kafka into a file, and settle it; give how many.

        Raises JournalError, HandoverError, OSError, or PublishError if Kafka does not tell.
        """
        async with contextlib.AsyncExitStack() as stack:
            await self._dispatcher(self._journal(stack), stack).recover()
            return await asyncio.to_thread(handover.write, self._settings.journal.path, target)

    def _journal(self, stack: contextlib.AsyncExitStack) -> Journal:
        """Open the journal for as long as the stack lasts."""
        if not self._settings.journal.network_volume:
            mounts.refuse_remote(self._settings.journal.path)
        journal = Journal(
            self._settings.journal.path,
            self.metrics,
            max_bytes=self._settings.journal.max_bytes,
            max_waiting=self._settings.journal.max_waiting,
            window=self._settings.journal.dedupe_window,
            letters_alone=not self._settings.kafka.dead_letter_value,
        )
        stack.push_async_callback(journal.close)
        return journal

    def _dispatcher(self, journal: Journal, stack: contextlib.AsyncExitStack) -> Dispatcher:
        claims, spans = self._claims(journal), self._spans()
        if claims:
            stack.push_async_callback(claims.close)
        if spans:
            stack.push_async_callback(spans.close)
        router = routing.router(self._settings)
        return Dispatcher(journal, self._publisher(router), router, self.metrics, claims, spans)

    async def _serve(
        self,
        journal: Journal,
        dispatcher: Dispatcher,
        transports: Sequence["WebhookServer | LongConnection"],
        stop: asyncio.Event,
    ) -> None:
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(self._watch(journal))
            dispatching = tasks.create_task(dispatcher.run())
            looking = tasks.create_task(self._look_at_copies(dispatcher.connected))
            for transport in transports:
                if not isinstance(transport, WebhookServer):
                    tasks.create_task(transport.run())
            log.info(
                "serving",
                version=__version__,
                webhook_port=self.webhook_port,
                admin_port=self.admin_port,
                journal=journal.id,
                backlog=self.metrics.account().pending,
            )
            _spare_the_collector()
            self.ready.set()
            await stop.wait()
            await self._drain(transports, dispatcher)
            looking.cancel()
            dispatching.cancel()
            watching.cancel()

    async def _look_at_copies(self, connected: asyncio.Event) -> None:
        """Say once if the death of one broker could lose what is published."""
        await connected.wait()
        kafka = self._settings.kafka
        with contextlib.suppress(PublishError):
            async with translated(kafka.bootstrap_servers), asyncio.timeout(kafka.timeout):
                topics = Router(kafka.topic_prefix, kafka.topics).topics
                if frail := durability.frail(await durability.copies(kafka, topics)):
                    log.warning("topics_on_one_disk", found="; ".join(frail))

    async def _watch(self, journal: Journal) -> None:
        """End the process when a part of it has died that nothing else waits for.

        Raises StoppedWorkingError.
        """
        escapes = Escapes()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(journal.watch())
            death = await escapes.first()
            raise StoppedWorkingError(f"{death}; what was answered is on disk: start relay again")

    async def _drain(
        self, transports: Sequence["WebhookServer | LongConnection"], dispatcher: Dispatcher
    ) -> None:
        """Stop accepting, then publish what is left; what time does not allow stays on disk."""
        drain = self._settings.drain
        self._draining = True
        log.info("draining", pending=self.metrics.account().pending)
        for transport in transports:
            if isinstance(transport, WebhookServer):
                transport.leave()
        await asyncio.sleep(drain.delay)
        await asyncio.gather(*(transport.stop() for transport in transports))
        await self._emptied(dispatcher, drain.timeout)
        log.info("stopped", left_in_journal=self.metrics.account().pending)

    async def _emptied(self, dispatcher: Dispatcher, timeout: float) -> None:  # noqa: ASYNC109 - a bound
        """Wait until nothing is pending, or time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while self.metrics.account().pending:
                    dispatcher.idle.clear()
                    await dispatcher.idle.wait()

    async def _console(self, stack: contextlib.AsyncExitStack) -> "Parts | None":
        """Open the operator's pages; without a password Jinja is not even loaded."""
        console = self._settings.console
        if not console.password.get_secret_value():
            return None
        from relay.console.replica import Parts
        from relay.console.server import ConsoleServer

        name, draining = self._settings.claims.replica, lambda: self._draining
        parts = Parts(
            name=name,
            path=self._settings.journal.path,
            router=routing.router(self._settings),
            metrics=self.metrics,
            draining=draining,
        )
        server = ConsoleServer(console, parts)
        stack.push_async_callback(server.stop)
        self.console_port = await server.start()
        log.info("console_open", console_port=self.console_port)
        return parts

    def _long_connections(self, pipeline: Pipeline) -> list["LongConnection"]:
        """Make one for each app that wants it; without any, protobuf is not even loaded."""
        wanting = {name: app for name, app in self._settings.apps.items() if app.long_connection}
        if not wanting:
            return []
        from relay.ingress.longconn import LongConnection

        return [
            LongConnection(
                name,
                (app.app_id, app.app_secret.get_secret_value()),
                self._settings.feishu(app),
                pipeline.accept,
                self.metrics,
            )
            for name, app in wanting.items()
        ]

    def _claims(self, journal: Journal) -> "Claims | None":
        """Where several replicas agree; without a URL there is one, and `redis` is not loaded."""
        settings = self._settings.claims
        if not settings.url.get_secret_value():
            return None
        from relay.claims.claims import Claims
        from relay.claims.seeding import Seeding

        claims = Claims(settings, journal.retention, self.metrics)
        claims.entry = Seeding(journal, claims, settings.replica, settings.after)
        return claims

    def _spans(self) -> "Spans | None":
        """Where traces go; without an endpoint OpenTelemetry is not loaded."""
        if not self._settings.traces.endpoint:
            return None
        from relay.observe.spans import Spans

        return Spans(self._settings.traces.endpoint)

    def _publisher(self, router: Router) -> Publisher:
        kafka = self._settings.kafka
        if kafka.delivery is Delivery.AT_LEAST_ONCE:
            return AtLeastOncePublisher(kafka, router.topics)
        return ExactlyOncePublisher(kafka, router.topics)


def _give_memory_back() -> None:
    """Have glibc return large buffers when they are freed; by itself it keeps more and more."""
    with contextlib.suppress(AttributeError):  # another C library has no such limit
        ctypes.CDLL(None).mallopt(_M_TRIM_THRESHOLD, KEPT_FREE)


def _allow_descriptors() -> None:
    """Take as many open files as we may: systemd's usual 1,024 are soon used up by connections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # what macOS calls its limit it does not take
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _spare_the_collector() -> None:
    """Keep what lives as long as the process out of garbage collection, and collect less often."""
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)

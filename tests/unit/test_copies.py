"""Any number of copies of one journal, frozen, killed, restored, cut off from Kafka at any step.

The dispatcher and its recovery are the real ones; each await of theirs on the journal or on Kafka
is a step that the state machine below takes or does not take. What was answered 200 is on Kafka in
the end, once; the exceptions are those of docs/architecture.md, "Where the promises end".
"""

import contextlib
import copy
import types
import uuid
from collections import Counter
from collections.abc import AsyncIterable, Coroutine, Generator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any
from unittest import mock

import structlog
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from relay import fairness
from relay.contract.normalize import Router
from relay.egress import recovery
from relay.egress.dispatcher import Dispatcher
from relay.egress.tenure import Place
from relay.errors import FencedError, KafkaUnavailableError, ProducerOustedError, PublishError
from relay.events import Record, Settlement, StoredEvent, Transport
from relay.journal.rows.claimed import Claimed
from relay.journal.rows.identity import Identity
from relay.observe.metrics import Metrics
from tests.fakes import MESSAGE_CREATED, as_json, payload

#: Files at most, turns in which all of them come to rest, and steps of one turn: longer than a
#: recovery, as those that begin at once in step end one another for ever (each waits, at random).
FILES, TURNS, STEPS = 4, 60, 60


@types.coroutine
def step() -> Generator[None, None, None]:
    """Here a process can be frozen or killed."""
    yield


@dataclass(slots=True)
class File:
    """A journal's file: what survives a process."""

    identity: Identity
    #: Event by seq, as long as it is not settled.
    pending: dict[int, str] = field(default_factory=dict)
    last_seq: int = 0

    def unsure(self) -> set[str]:
        """Events that came between a start and Kafka's first word to it."""
        known = [self.identity.reach] if self.identity.reach is not None else []
        if self.identity.predecessor is not None:
            known.append(self.identity.predecessor_reach)
        return {name for seq, name in self.pending.items() if known and seq > min(known)}


@dataclass(slots=True)
class Broker:
    """Kafka: an offset and an epoch by name, commits on their way, and what consumers see."""

    up: bool = True
    places: dict[str, Place] = field(default_factory=dict)
    #: What was told before, the latest last; and how far back the coordinator is for now.
    history: dict[str, list[Place]] = field(default_factory=dict)
    behind: int = 0
    epochs: Counter[str] = field(default_factory=Counter)
    flying: list["Commit"] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    def land(self, commit: "Commit") -> None:
        """Have a commit take place, unless its producer was fenced before."""
        if commit in self.flying:
            self.flying.remove(commit)
            if commit.epoch == self.epochs[commit.name]:
                earlier = self.history.setdefault(commit.name, [])
                earlier.append(self.places.get(commit.name, Place()))
                self.places[commit.name] = commit.place
                self.seen.update(commit.events)
                self.behind = 0

    def told(self, name: str) -> Place:
        """Give a place as a coordinator does that may have come up a moment ago."""
        earlier = [place for place in self.history.get(name, []) if place.owner]
        if name not in self.places or not 0 < self.behind <= len(earlier):
            return self.places.get(name, Place())
        return earlier[-self.behind]


@dataclass(slots=True, eq=False)
class Commit:
    """A transaction whose end is requested."""

    name: str
    epoch: int
    place: Place
    events: Sequence[str] = ()


class Link:
    """A `Publisher`."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._name, self._epoch = "", 0
        self._signed = Place()
        #: What was on Kafka when it was last asked.
        self.known: frozenset[str] = frozenset()

    async def _network(self) -> None:
        await step()
        if not self._broker.up:
            raise KafkaUnavailableError("away")

    def _current(self) -> None:
        if self._epoch != self._broker.epochs[self._name]:
            raise ProducerOustedError("ended")

    def _look(self, name: str) -> Place:
        self.known = frozenset(self._broker.seen)
        return self._broker.told(name)

    async def find(self, journal_id: str) -> Place:
        await self._network()
        place = self._look(journal_id)
        await self._network()
        return place

    async def open(self, journal_id: str) -> Place:
        await self._network()
        self._name = journal_id
        self._broker.epochs[journal_id] += 1
        self._epoch = self._broker.epochs[journal_id]
        await self._network()
        self._broker.behind = 0
        place = self._look(journal_id)
        await self._network()
        return place

    async def _commit(self, place: Place, events: Sequence[str]) -> None:
        await self._network()
        self._current()
        commit = Commit(name=self._name, epoch=self._epoch, place=place, events=events)
        self._broker.flying.append(commit)
        await self._network()
        self._current()
        self._broker.land(commit)
        await self._network()

    async def sign(self, place: Place) -> None:
        self._signed = Place.parse(0, place.metadata())
        await self._commit(replace(self._signed, offset=place.offset), ())

    async def confirm(self, settled_seq: int) -> None:
        raise NotImplementedError

    async def publish(self, records: AsyncIterable[Record], last_seq: int) -> None:
        events = [dict(record.headers)["ce_id"].decode() async for record in records]
        await self._commit(replace(self._signed, offset=last_seq + 1), events)

    async def close(self) -> None:
        pass


class Holder:
    """What the dispatcher uses of a `Journal`."""

    def __init__(self, file: File, parted: Any) -> None:
        self._file = file
        self._parted = parted
        self.arrived = types.SimpleNamespace(clear=lambda: None)
        if file.identity.reach is None:
            file.identity = replace(file.identity, reach=file.last_seq)
        self.identity = file.identity

    @property
    def id(self) -> str:
        return self.identity.id

    def last_seq(self) -> int:
        return self._file.last_seq

    async def become(self, identity: Identity) -> None:
        await step()
        if identity.id != self._file.identity.id:
            self._parted()
        self._file.identity = identity
        await step()
        self.identity = identity

    async def note_claimed(self, claimed: Claimed) -> None:
        pass

    async def pending(self, limit: int, max_bytes: int) -> list[StoredEvent]:
        del limit, max_bytes
        return [_event(seq, name) for seq, name in sorted(self._file.pending.items())]

    async def settle(self, settlements: Sequence[Settlement], *_: object) -> None:
        await step()
        for one in settlements:
            self._file.pending.pop(one.seq, None)
        await step()


def _event(seq: int, name: str) -> StoredEvent:
    return StoredEvent(
        seq=seq,
        app="default",
        transport=Transport.WEBHOOK,
        received_at=1,
        event_id=name,
        event_type=MESSAGE_CREATED,
        body=as_json(payload(name)),
    )


class Stepped(Dispatcher):
    """Where there is nothing to do it takes a step."""

    async def _dispatch(self) -> None:
        if await self._journal.pending(1, 1):
            await super()._dispatch()
        else:
            await step()


async def life(dispatcher: Dispatcher) -> None:
    """Run until another process has the name."""
    while True:
        try:
            await dispatcher._run_until_failure()
        except FencedError:
            return
        except PublishError:
            await step()


METRICS = Metrics()


class Names:
    """Stands for `uuid`: the same names in each example."""

    def restart(self) -> None:
        """Begin an example."""
        self._numbers = count(1)

    def uuid4(self) -> uuid.UUID:
        """Give the next one."""
        return uuid.UUID(int=next(self._numbers))


NAMES = Names()


@dataclass(slots=True)
class Machine:
    """A place where relay runs: a file, and perhaps a process."""

    file: File
    process: Coroutine[Any, Any, None] | None = None
    snapshot: File | None = None
    link: Link | None = None


class Copies(RuleBasedStateMachine):
    """The model."""

    def __init__(self) -> None:
        super().__init__()
        self.broker = Broker()
        self.machines = [Machine(File(Identity(id="first")))]
        self.numbers = count(1)
        NAMES.restart()
        self.answered: list[str] = []
        #: Gone with a volume, or may come twice, as the documents say.
        self.gone: set[str] = set()
        self.may_repeat: set[str] = set()

    def pick(self, number: int) -> Machine:
        return self.machines[number % len(self.machines)]

    def advance(self, machine: Machine) -> None:
        if machine.process:
            try:
                machine.process.send(None)
            except StopIteration:
                machine.process = None

    def parted(self, machine: Machine, link: Link) -> None:
        """What is taken along to a new name is on Kafka only if that could not be known."""
        pending = set(machine.file.pending.values())
        twice = (pending & link.known) - self.may_repeat
        assert not twice, f"is on Kafka, and will come again: {twice}"
        self.may_repeat |= pending - link.known

    @rule(number=st.integers(0, 9))
    def start(self, number: int) -> None:
        machine = self.pick(number)
        if machine.process is None:
            link = Link(self.broker)
            holder = Holder(machine.file, lambda: self.parted(machine, link))
            dispatcher = Stepped(holder, link, Router("", {}), METRICS)  # type: ignore[arg-type]
            machine.process, machine.link = life(dispatcher), link

    @rule(number=st.integers(0, 9), events=st.integers(1, 3))
    def take(self, number: int, events: int) -> None:
        machine = self.pick(number)
        if machine.process:
            for _ in range(events):
                name = f"e-{next(self.numbers)}"
                machine.file.last_seq += 1
                machine.file.pending[machine.file.last_seq] = name
                self.answered.append(name)

    @rule(number=st.integers(0, 9), steps=st.integers(1, 25))
    def go_on(self, number: int, steps: int) -> None:
        for _ in range(steps):
            self.advance(self.pick(number))

    @rule(number=st.integers(0, 9))
    def kill(self, number: int) -> None:
        machine = self.pick(number)
        if machine.process:
            machine.process.close()
            machine.process = None

    def copied(self, machine: Machine) -> File:
        self.may_repeat |= machine.file.unsure()
        return copy.deepcopy(machine.file)

    @precondition(lambda self: len(self.machines) < FILES)
    @rule(number=st.integers(0, 9))
    def clone(self, number: int) -> None:
        self.machines.append(Machine(self.copied(self.pick(number))))

    @rule(number=st.integers(0, 9))
    def snapshot(self, number: int) -> None:
        machine = self.pick(number)
        machine.snapshot = self.copied(machine)

    @rule(number=st.integers(0, 9))
    def restore(self, number: int) -> None:
        machine = self.pick(number)
        if machine.snapshot:
            self.kill(number)
            lost = set(machine.file.pending.values()) - set(machine.snapshot.pending.values())
            self.gone |= lost
            machine.file = copy.deepcopy(machine.snapshot)

    @rule(up=st.booleans())
    def outage(self, up: bool) -> None:  # noqa: FBT001 - drawn
        self.broker.up = up

    @rule(commits=st.integers(1, 3))
    def come_up(self, commits: int) -> None:
        """A coordinator tells what was, until it is written to."""
        self.broker.behind = commits

    @precondition(lambda self: self.broker.flying)
    @rule(number=st.integers(0, 9))
    def arrive(self, number: int) -> None:
        """A commit takes place whose process may be gone."""
        flying = self.broker.flying
        self.broker.land(flying[number % len(flying)])

    @precondition(lambda self: self.broker.places)
    @rule(number=st.integers(0, 99))
    def forget(self, number: int) -> None:
        """Group and transactional id have expired."""
        names = sorted(self.broker.places)
        name = names[number % len(names)] if number < 10 else ""
        if name:
            del self.broker.places[name]
            self.broker.epochs[name] += 1
            for machine in self.machines:
                for file in (machine.file, machine.snapshot):
                    self.may_repeat |= set(file.pending.values() if file else ())

    def teardown(self) -> None:
        """Let all of them run to their end, and look."""
        self.broker.up = True
        for _ in range(TURNS):
            for number in range(len(self.machines)):
                self.start(number)
                self.go_on(number, STEPS)
            if not any(machine.file.pending for machine in self.machines):
                break
        for number in range(len(self.machines)):
            self.kill(number)
        lost = set(self.answered) - set(self.broker.seen) - self.gone
        assert not lost, f"was answered 200 and is nowhere: {lost}"
        twice = {name for name, times in self.broker.seen.items() if times > 1} - self.may_repeat
        assert not twice, f"came twice: {twice}"


Copies.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


class TestCopies(Copies.TestCase):  # type: ignore[misc,valid-type]
    """As pytest finds it."""

    def run(self, result: Any = None) -> Any:
        """Without a line of log for each step."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(structlog.testing.capture_logs())
            # The same draws make the same steps: nothing hangs on names or on real time.
            stack.enter_context(mock.patch.object(recovery, "uuid", NAMES))
            stack.enter_context(mock.patch.object(fairness.Turns, "due", return_value=False))
            return super().run(result)

"""What every test may ask for: a clean environment, brokers, names of its own."""

import contextlib
import importlib
import os
import pkgutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
import structlog
from confluent_kafka import Producer
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

import relay
from tests import builds, kafka_server, needs
from tests.kafka_server import OLDEST, Broker, ExternalKafka, KafkaServer

# A busy machine is no failure of the code; the examples are new ones at each run.
settings.register_profile("relay", deadline=None)
settings.load_profile("relay")

#: One broker, and no line on stderr that says so.
_EMBEDDED = {"test.mock.num.brokers": 1, "log_level": 4}

_TESTS = Path(__file__).parent

#: Read before any test runs: inside a test the environment has no RELAY_ variable.
_TEST_KAFKA = os.environ.get("RELAY_TEST_KAFKA")


Say = Callable[[str], None]

#: The order of the folders: what tells most in the shortest time comes first.
_FOLDERS = ("unit", "integration", "e2e", "sdk", "lab", "deploy")
#: Of these, each test may run beside any other, but for files whose tests share a broker.
_ALONE = {"unit", "e2e", "sdk", "deploy"}
_SHARING = {"test_broker.py", "test_copies.py", "test_compose.py", "test_image.py"}
#: Where relay runs in processes of its own, which are not measured.
_UNMEASURED = {"e2e", "sdk", "lab", "deploy"}
#: Within unit the contract, of which a broken rule shows in seconds; within e2e what takes longest,
#: so that no worker waits for another at the end.
_FIRST = (
    "test_normalize.py",
    "test_schemas.py",
    "test_broker.py",
    "test_crash_points.py",
    "test_large_journal.py",
    "test_brief_logins.py",
)


def pytest_report_header() -> list[str]:
    """Say before the first test what will be skipped, and which package brings it back."""
    return needs.missing()


def pytest_configure() -> None:
    """Take Ctrl-C, as tests press it: a shell starts what runs behind it with it ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Build beside the tests, where all of them run; a worker leaves that to its controller."""
    whole = session.config.args_source is pytest.Config.ArgsSource.TESTPATHS
    if (
        whole
        and not hasattr(session.config, "workerinput")
        and not session.config.option.collectonly
    ):
        session.stash[_BUILDING] = builds.start()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End what is still being built."""
    if building := session.stash.get(_BUILDING, None):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(building.pid, signal.SIGTERM)
        building.wait()


_BUILDING = pytest.StashKey[subprocess.Popen[bytes]]()


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Generator[None, object, object]:
    """Collect unmeasured, with relay loaded before: pytest's own work would take twice as long."""
    plugins = session.config.pluginmanager
    measuring = plugins.getplugin("_cov")
    controller = measuring and measuring.cov_controller
    if not controller or not controller.started or plugins.hasplugin("dsession"):
        return (yield)
    for module in pkgutil.walk_packages(relay.__path__, "relay."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    controller.pause()
    try:
        return (yield)
    finally:
        controller.resume()


@pytest.hookimpl(trylast=True)  # hypothesis has marked its own by then
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the tests in the order of their speed; measure where relay runs in this process."""
    items.sort(key=_rank)
    if config.getoption("no_cov", default=False):
        return
    for item in items:
        # What a hundred examples reach, the others have reached: it takes half the time.
        if _folder(item) in _UNMEASURED or item.get_closest_marker("hypothesis"):
            item.add_marker("no_cover")


class _Lanes(LoadScopeScheduling):  # type: ignore[misc]  # the library ships no types
    """Keeps the tests of a file together, which share its brokers, but for those without any.

    Two workers keep two cores busy. A third one, where it is asked for, has what waits most of the
    time, integration; when the tests that measure time are over, it helps the others.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        alone = _part(file) in _ALONE and Path(file).name not in _SHARING
        return nodeid if alone else file

    def schedule(self) -> None:
        """Begin; the laboratory, the longest lane, runs beside sdk and deploy."""
        super().schedule()
        for part in ("integration", "lab", "sdk", "deploy"):
            for scope in [one for one in self.workqueue if _part(one) == part]:
                self.workqueue.move_to_end(scope)

    def mark_test_complete(
        self, node: WorkerController, item_index: int, duration: float = 0
    ) -> None:
        """Look also whether the third worker need wait no longer."""
        super().mark_test_complete(node, item_index, duration)
        for other in self.nodes:
            if other is not node and _is_third(other):
                self._reschedule(other)

    def _assign_work_unit(self, node: WorkerController) -> None:
        if _is_third(node) and (scope := self._for_the_third()):
            self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        """Give a worker what is long only when it begins its last test: another may be free."""
        third, left = _is_third(node), self._pending_of(self.assigned_work[node])
        long = third or _part(next(iter(self.workqueue), "tests/unit")) != "unit"
        if long and left > 1:
            return
        if not (third and self.workqueue and self._for_the_third() is None):
            super()._reschedule(node)

    def _for_the_third(self) -> str | None:
        """Integration, and at the end what there is; the laboratory begins before that."""
        parts: dict[str, str] = {one: _part(one) for one in self.workqueue}
        if "integration" in parts.values():
            return next(one for one, part in parts.items() if part == "integration")
        return None if {"e2e", "lab"} & set(parts.values()) else next(iter(parts), None)


def _is_third(node: WorkerController) -> bool:
    return bool(node.gateway.id == "gw2")


def _part(scope: str) -> str:
    return scope.split("/")[1]


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _Lanes:
    """Say which tests stay together, in the order that they have."""
    return _Lanes(config, log)


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(_TESTS).parts[0]


def _rank(item: pytest.Item) -> tuple[int, int]:
    name = item.path.name
    return _FOLDERS.index(_folder(item)), _FIRST.index(name) if name in _FIRST else len(_FIRST)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Name a failure when it happens; its story comes at the end."""
    if report.failed and not os.environ.get("PYTEST_XDIST_WORKER"):
        line = str(report.longrepr).strip().splitlines()[-1:] or [""]
        sys.stderr.write(f"\nFAILED {report.nodeid}: {line[0][:200]}\n")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the settings of the machine it runs on, or how an earlier one set up logs."""
    structlog.reset_defaults()
    for name in list(os.environ):
        if name.upper().startswith("RELAY_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def kafka() -> Iterator[Broker]:
    """A real Kafka for the whole session; take `kafka_process` to pause or kill one."""
    if _TEST_KAFKA:
        yield ExternalKafka(bootstrap=_TEST_KAFKA)
        return
    need_kafka()
    with KafkaServer() as server:
        yield server


@pytest.fixture(scope="session")
def old_kafka() -> Iterator[Broker]:
    """An old Kafka, of the last series before 4."""
    need_kafka()
    with KafkaServer(version=OLDEST) as server:
        yield server


@pytest.fixture(params=["kafka", "old_kafka"], ids=["newest", "oldest"])
def any_kafka(request: pytest.FixtureRequest) -> Broker:
    """The newest Kafka, then the oldest."""
    broker: Broker = request.getfixturevalue(request.param)
    return broker


@pytest.fixture(scope="module")
def kafka_process() -> Iterator[KafkaServer]:
    """A real Kafka of this module's own, to be paused, killed and restarted."""
    need_kafka()
    with KafkaServer() as server:
        yield server


def need_kafka() -> None:
    """Skip where no Kafka can be started; fail in CI, where one must be."""
    if (reason := kafka_server.available()) is None:
        return
    if os.environ.get("CI"):
        pytest.fail(f"CI has no Kafka: {reason}")
    pytest.skip(f"{reason} (RELAY_TEST_KAFKA may name a broker)")


@pytest.fixture(scope="session")
def embedded_kafka() -> Iterator[str]:
    """`host:port` of librdkafka's mock cluster, in this process.

    Transactions work; an offset committed in one never shows.
    """
    owner = Producer({**_EMBEDDED, "bootstrap.servers": "unused"})
    broker = next(iter(owner.list_topics(timeout=10).brokers.values()))
    yield f"{broker.host}:{broker.port}"
    del owner


@pytest.fixture
def topic_prefix() -> str:
    """A prefix for topics, groups and transactional ids that no other test has."""
    return f"test-{uuid.uuid4().hex[:12]}."


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Say:
    """Print a line that is seen even when the test passes: measured figures."""

    def line(text: str) -> None:
        with capsys.disabled():
            request.config.get_terminal_writer().line(f"\n  {text}")

    return line

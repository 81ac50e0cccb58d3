"""What every test may ask for: a clean environment, brokers, names of its own."""

import os
import uuid
from collections.abc import Callable, Iterator

import pytest
import structlog
from confluent_kafka import Producer
from hypothesis import settings

from tests import kafka_server
from tests.kafka_server import Broker, ExternalKafka, KafkaServer

# A busy machine is no failure of the code; the examples are new ones at each run.
settings.register_profile("relay", deadline=None)
settings.load_profile("relay")

#: One broker, and no line on stderr that says so.
_EMBEDDED = {"test.mock.num.brokers": 1, "log_level": 4}

#: Read before any test runs: inside a test the environment has no RELAY_ variable.
_TEST_KAFKA = os.environ.get("RELAY_TEST_KAFKA")


Say = Callable[[str], None]


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

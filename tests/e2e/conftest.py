"""What end-to-end tests may ask for besides: a broker to maltreat, and a way to tell figures."""

from collections.abc import Callable, Iterator

import pytest

from tests.kafka_server import KafkaServer

Say = Callable[[str], None]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Say:
    """Print a line that is seen even when the test passes: measured figures."""

    def line(text: str) -> None:
        with capsys.disabled():
            request.config.get_terminal_writer().line(f"\n  {text}")

    return line


@pytest.fixture
def broker(kafka_process: KafkaServer) -> Iterator[KafkaServer]:
    """A Kafka that may be paused or killed; the next test finds it running again."""
    yield kafka_process
    try:
        kafka_process.resume()
    except Exception:  # noqa: BLE001 - it was killed
        kafka_process.restart()

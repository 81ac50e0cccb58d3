"""What end-to-end tests may ask for besides: a broker to maltreat."""

from collections.abc import Iterator

import pytest

from tests.kafka_server import KafkaServer


@pytest.fixture
def broker(kafka_process: KafkaServer) -> Iterator[KafkaServer]:
    """A Kafka that may be paused or killed; the next test finds it running again."""
    yield kafka_process
    try:
        kafka_process.resume()
    except Exception:  # noqa: BLE001 - it was killed
        kafka_process.restart()

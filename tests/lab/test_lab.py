"""Short seeds of the laboratory; `make lab SEEDS=500` runs as many as one likes, and longer."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Say, need_kafka
from tests.kafka_server import OLDEST
from tests.lab.ground import Ground
from tests.lab.run import REPLICAS, run_seed

SECONDS = 4.0
#: With one broker, with an old one, and with three.
SEEDS, OLD_SEEDS, SEEDS_OF_THREE = range(1, 9), range(9, 17), range(17, 21)


@pytest.fixture(scope="module")
def one_broker() -> Iterator[Ground]:
    need_kafka()
    with Ground(1, REPLICAS) as ground:
        yield ground


@pytest.fixture(scope="module")
def old_broker() -> Iterator[Ground]:
    need_kafka()
    with Ground(1, REPLICAS, OLDEST, reauthentication=True) as ground:
        yield ground


@pytest.fixture(scope="module")
def three_brokers() -> Iterator[Ground]:
    need_kafka()
    with Ground(3, REPLICAS) as ground:
        yield ground


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", SEEDS)
async def test_seed(seed: int, one_broker: Ground, tmp_path: Path, say: Say) -> None:
    """Every acknowledged event is on Kafka once, whatever the seed has broken."""
    await _kept(seed, one_broker, tmp_path, say)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", OLD_SEEDS)
async def test_seed_of_an_old_broker(
    seed: int, old_broker: Ground, tmp_path: Path, say: Say
) -> None:
    """The last series before 4, which applies a transaction's offset late; it cuts old logins."""
    await _kept(seed, old_broker, tmp_path, say)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", SEEDS_OF_THREE)
async def test_seed_of_three_brokers(
    seed: int, three_brokers: Ground, tmp_path: Path, say: Say
) -> None:
    """Replication 3, two in sync: a leader may die."""
    await _kept(seed, three_brokers, tmp_path, say)


async def _kept(seed: int, ground: Ground, directory: Path, say: Say) -> None:
    verdict = await run_seed(seed, ground, directory, SECONDS)
    say(f"seed {seed}: {verdict.report}; {dict(verdict.faults)}")
    assert not verdict.wrong(), "\n".join([verdict.wrong(), *verdict.timeline])

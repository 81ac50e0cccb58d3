"""Short seeds of the laboratory; `make lab SEEDS=500` runs as many as one likes, and longer."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Say, need_kafka
from tests.lab.ground import Ground
from tests.lab.run import REPLICAS, run_seed

SECONDS = 4.0
#: With one broker, and with three.
SEEDS, SEEDS_OF_THREE = range(1, 17), range(17, 21)


@pytest.fixture(scope="module")
def one_broker() -> Iterator[Ground]:
    need_kafka()
    with Ground(1, REPLICAS) as ground:
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

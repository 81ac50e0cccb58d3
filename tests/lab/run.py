"""Runs seeds: load, faults two at a time, then peace, and the account of every event."""

import asyncio
import math
import time
from pathlib import Path
from random import Random

from tests.lab.faults import FAULTS, Busy, empty_claims
from tests.lab.ground import Ground
from tests.lab.world import Verdict, World

#: One seed in so many empties the claims store, and so expects repeats.
EMPTYING = 10
REPLICAS = 3
#: Faults at the same time.
AT_ONCE = 2


async def run_seed(
    seed: int, ground: Ground, directory: Path, seconds: float, only: str | None = None
) -> Verdict:
    """Run one seed's faults for so many seconds, then compare. Raises AssertionError.

    `only` names the one fault that is drawn, whatever its weight.
    """
    world = World(seed, ground, directory, REPLICAS)
    try:
        async with world.opened() as oracle:
            async with oracle.load():
                until = time.monotonic() + seconds
                async with asyncio.TaskGroup() as group:
                    for lane in range(AT_ONCE):
                        group.create_task(_faults(world, Random(f"{seed}/{lane}"), until, only))
                recovery = await world.well_again()
            # The last events came after that.
            recovery = max(recovery, await world.well_again())
            report = await oracle.compared(ground.bootstrap, world.prefix)
    except BaseException as error:
        error.add_note(f"seed {seed}:\n" + "\n".join(world.timeline))
        raise
    return Verdict(
        seed=seed,
        report=report,
        answers=oracle.answers,
        pushed=oracle.pushed,
        p99=oracle.p99,
        slowest=max(oracle.latencies, default=math.nan),
        faults=world.faults,
        recovery=recovery,
        may_repeat=world.may_repeat,
        timeline=world.timeline,
    )


async def _faults(world: World, rng: Random, until: float, only: str | None) -> None:
    """One fault after the other, as the seed draws them."""
    names = list(FAULTS)
    weights = [
        int(only == fault.__name__)
        if only
        else int(fault is empty_claims and world.seed % EMPTYING == 0) or weight
        for fault, weight in FAULTS.items()
    ]
    while time.monotonic() < until:
        (fault,) = rng.choices(names, weights)
        try:
            await fault(world, rng)
        except Busy:
            await asyncio.sleep(0.05)
            continue
        world.faults[fault.__name__] += 1
        await asyncio.sleep(rng.uniform(0, 0.5))

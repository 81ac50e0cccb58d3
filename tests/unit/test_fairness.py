"""The event loop shared by time: nobody starves, whoever is long."""

import asyncio
import time

import pytest

from relay.fairness import LARGEST_SHARE, SHORTEST_BITE, Turns

#: Seconds that the others take whenever it is their turn.
OTHERS = 0.01


async def _bite(turns: Turns) -> float:
    """Seconds that the work has for itself after the others had their turn."""
    asyncio.get_running_loop().call_soon(time.sleep, OTHERS)
    await turns.give()
    began = time.perf_counter()
    while not turns.due():
        pass
    return time.perf_counter() - began


async def test_work_waits_for_nobody_on_an_idle_machine() -> None:
    turns = Turns()
    await turns.give()
    assert not turns.due()
    await asyncio.sleep(2 * SHORTEST_BITE)
    assert turns.due()


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.1, 1.0), (1.0, 1.0), (2.5, 2.5), (1000.0, LARGEST_SHARE)],
    ids=["never-less-than-the-others", "as-much", "more", "bounded"],
)
async def test_work_takes_its_share_of_what_the_others_took(share: float, expected: float) -> None:
    turns = Turns(share)
    # The least of some: whoever else runs on this machine makes them longer.
    bite = min([await _bite(turns) for _ in range(10)])
    assert bite == pytest.approx(expected * OTHERS, rel=0.5)


async def test_others_run_at_each_turn() -> None:
    ran: list[int] = []
    turns = Turns(LARGEST_SHARE)
    for number in range(3):
        asyncio.get_running_loop().call_soon(ran.append, number)
        await turns.give()
    assert ran == [0, 1, 2]

"""Shares the event loop between a long piece of work and the answers that wait meanwhile."""

import asyncio
import time

#: Seconds that the work takes before it lets others have a turn, at least.
SHORTEST_BITE = 0.001
#: So many times what the others took is the most that the work takes for itself.
LARGEST_SHARE = 4.0


class Turns:
    """Call `due` often, and `give` when it says so.

    The work then takes `share` times what the others have just taken: on an idle machine answers
    wait for a millisecond at most, and under full load the work is not starved by them.
    """

    __slots__ = ("_share", "_until")

    def __init__(self, share: float = 1.0) -> None:
        self._share = min(max(share, 1.0), LARGEST_SHARE)
        self._until = time.perf_counter() + SHORTEST_BITE

    def due(self) -> bool:
        """Whether it is time to let the others go."""
        return time.perf_counter() > self._until

    async def give(self) -> None:
        """Let everything else that is ready run once."""
        began = time.perf_counter()
        await asyncio.sleep(0)
        now = time.perf_counter()
        self._until = now + max(SHORTEST_BITE, self._share * (now - began))

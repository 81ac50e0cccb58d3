"""Ports of loopback for what listens later, and for what stops and listens again."""

import random
import socket

#: Below those that systems give to outgoing connections: none of these takes a port meanwhile.
_LISTENING = range(10_000, 32_000)
#: In an order of this process: none is given twice.
_untried = iter(random.SystemRandom().sample(_LISTENING, len(_LISTENING)))


def free_port() -> int:
    """Give a port at which nothing listens."""
    for port in _untried:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("every port of loopback was tried")

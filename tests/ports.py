"""Ports of loopback for what listens later, and for what stops and listens again."""

import errno
import random
import socket

#: Below those that systems give to outgoing connections: none of these takes a port meanwhile.
_LISTENING = range(10_000, 32_000)
_LOOPBACK = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
#: In an order of this process: none is given twice.
_untried = iter(random.SystemRandom().sample(_LISTENING, len(_LISTENING)))


def free_port() -> int:
    """Give a port at which nothing listens, by no family of addresses."""
    for port in _untried:
        if not any(_is_taken(family, host, port) for family, host in _LOOPBACK):
            return port
    raise OSError("every port of loopback was tried")


def _is_taken(family: socket.AddressFamily, host: str, port: int) -> bool:
    try:
        with socket.socket(family) as probe:
            probe.bind((host, port))
    except OSError as error:
        # A machine may lack one of the two.
        return error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
    return False

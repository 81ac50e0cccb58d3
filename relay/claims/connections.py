"""Connections to the claims store on which no command is sent in vain.

A box between two networks may forget a connection that is quiet, and tell neither end. So one that
was quiet is asked before it is used, and made anew if there is no answer. It decides nothing else.

And none is made by certificates that were read for another one: they may have been renewed.
"""

import asyncio
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.exceptions import RedisError

from relay.settings.certificates import Certificates

#: Seconds without an answer after which a connection is asked before it is used.
QUIET = 5.0
#: The part of a call's time that it has to answer.
_SHARE = 0.25


async def _check_health(connection: Any) -> None:
    """Have a live connection. The library's own check fails where a new one would do."""
    now = asyncio.get_running_loop().time()
    if not connection.health_check_interval or now <= connection.next_health_check:
        return
    # What is sent from here on does not ask again.
    connection.next_health_check = now + connection.health_check_interval
    try:
        async with asyncio.timeout(connection.socket_timeout * _SHARE):
            await connection.send_command("PING", check_health=False)
            await connection.read_response()
    except (RedisError, OSError):
        await connection.disconnect(nowait=True)
        await connection.connect()


def _connection_arguments(connection: Any) -> dict[str, Any]:
    """Trust those that are named, and nobody besides. The library's own reads files once."""
    certificates = Certificates(
        authority=connection.ca_certs, certificate=connection.certfile, key=connection.keyfile
    )
    plain = Connection._connection_arguments(connection)  # noqa: SLF001 - it has no other place for it
    return {**plain, "ssl": certificates.context()}


def lively() -> dict[str, Any]:
    """Let every connection of this process be so; give the option that each client needs."""
    AbstractConnection.check_health = _check_health  # type: ignore[method-assign]
    SSLConnection._connection_arguments = _connection_arguments  # type: ignore[assignment, method-assign]  # noqa: SLF001 - as above
    return {"health_check_interval": QUIET}

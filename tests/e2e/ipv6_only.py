"""All of relay on a machine without IPv4: run as a module, in a network namespace of its own.

`python -m tests.e2e.ipv6_only DIRECTORY [apart]`; `apart` takes IPv4 from this namespace first.
"""

import asyncio
import fcntl
import socket
import struct
import sys
from pathlib import Path

from tests.e2e.process import Relay
from tests.kafka_server import KafkaServer
from tests.oracle import Oracle
from tests.redis_server import redis_server

#: Of linux/sockios.h and linux/if.h: set an interface's address, and its flags to "up".
_SET_ADDRESS, _SET_FLAGS, _UP = 0x8916, 0x8914, 1
EVENTS = 60


def take_ipv4_away() -> None:
    """Let loopback have ::1 only, and nobody else be there."""
    name = b"lo".ljust(16, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SET_FLAGS, name + struct.pack("H22x", _UP))
        # No address at all takes away the one that there is.
        nothing = struct.pack("HH4s8x", socket.AF_INET, 0, bytes(4))
        fcntl.ioctl(control, _SET_ADDRESS, name + nothing + bytes(8))
        try:
            control.connect(("127.0.0.1", 9))
        except OSError:
            return
    raise SystemExit("there is IPv4 yet")


async def main(directory: Path) -> None:
    """Two replicas take the same events; a consumer sees each once."""
    with (
        KafkaServer(host="[::1]") as kafka,
        redis_server(directory, host="::1") as redis,
    ):
        settings = {"ADMIN__HOST": "::1", "DRAIN__TIMEOUT": "10s", "CLAIMS__URL": redis.url}
        first = {"WEBHOOK__HOST": "::", "CLAIMS__REPLICA": "relay-0", **settings}
        second = {"WEBHOOK__HOST": "::1", "CLAIMS__REPLICA": "relay-1", **settings}
        async with (
            Relay(directory / "one", kafka.bootstrap, "v6.", **first) as one,
            Relay(
                directory / "two", kafka.bootstrap, "v6.", **second, CLAIMS__AFTER="relay-0"
            ) as two,
        ):
            await one.serving()
            await two.serving()
            source = Oracle(one.url, rate=200)
            await source.send(EVENTS)
            await source.repeat(two.url, EVENTS)
            for replica in (one, two):
                await replica.drained()
            report = await source.compared(kafka.bootstrap, "v6.")
            assert not report.faults(), report.faults()
            assert source.acknowledged == EVENTS
            assert (await two.metrics())["relay_claims_up"] == 1
            code, said = await one.command("check")
            assert code == 0, said
            assert await one.stopped() == 0
            assert await two.stopped() == 0
    sys.stdout.write(f"{EVENTS} events, each once\n")


if __name__ == "__main__":
    if "apart" in sys.argv[2:]:
        take_ipv4_away()
    asyncio.run(main(Path(sys.argv[1])))

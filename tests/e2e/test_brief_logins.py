"""A broker that lets a login hold for five seconds: nobody notices."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.conftest import Say, need_kafka
from tests.e2e.process import Relay
from tests.kafka_security import PASSWORD, USERNAME, brief, secure_listeners
from tests.kafka_server import KafkaServer
from tests.oracle import Oracle

#: Milliseconds of `connections.max.reauth.ms`.
LIFETIME = 5000


async def watched(directory: Path, prefix: str, seconds: float, rate: float) -> str:
    """Run relay beside such a broker, under load; give what was measured."""
    security = secure_listeners(directory)
    scram = security.listeners[0]
    listener = brief(scram, LIFETIME)
    login = {
        "KAFKA__SECURITY_PROTOCOL": scram.protocol,
        "KAFKA__SASL_MECHANISM": "SCRAM-SHA-512",
        "KAFKA__SASL_USERNAME": USERNAME,
        "KAFKA__SASL_PASSWORD": PASSWORD,
        "KAFKA__CA_FILE": str(security.ca_file),
    }
    with KafkaServer(listeners=[listener], scram_users=security.scram_users) as server:
        bootstrap = server.address(listener.name)
        async with Relay(directory, bootstrap, prefix, **login) as relay:
            oracle = Oracle(relay.url, rate=rate)
            await relay.serving()
            await oracle.send(1)
            await relay.drained()
            before, ups = len(relay.log), list[float]()
            async with oracle.load():
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    ups.append((await relay.metrics())["relay_kafka_up"])
                    await asyncio.sleep(0.05)
            await relay.drained()
            measured = await relay.metrics()
            said = relay.log[before:]
            assert await relay.stopped() == 0
        report = await oracle.compared(server.bootstrap, prefix)
    count = measured["relay_end_to_end_seconds_count"]
    soon = measured['relay_end_to_end_seconds_bucket{le="1.0"}']
    assert not report.faults(), report.faults()
    assert set(ups) == {1.0}
    assert "kafka_" not in said, said
    assert soon / count > 0.99
    return f"{report}; {soon:.0f} of {count:.0f} within a second; {len(ups)} looks, always up"


@pytest.mark.timeout(90)
async def test_broker_that_wants_logins_anew_is_not_noticed(
    tmp_path: Path, topic_prefix: str, say: Say
) -> None:
    """Nothing lost or twice, no word in the log, Kafka always up, an event within a second."""
    need_kafka()
    say(await watched(tmp_path, topic_prefix, seconds=12, rate=50))

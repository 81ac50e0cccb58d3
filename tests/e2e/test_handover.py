"""A replica that never comes back: its events go out through another one, each of them once."""

from pathlib import Path

from tests.e2e.process import ForkedRelay, until
from tests.kafka_server import Broker
from tests.oracle import Oracle, consume
from tests.redis_server import redis_server

AWAY = "127.0.0.1:1"


async def test_events_of_a_lost_replica_go_out_through_another(
    kafka: Broker, tmp_path: Path, topic_prefix: str
) -> None:
    """It died after a transaction that it did not settle, and with more that nobody published."""
    with redis_server(tmp_path) as claims:
        settings = {"CLAIMS__URL": claims.url}
        lost = ForkedRelay(tmp_path / "lost", kafka.bootstrap, topic_prefix, **settings)
        heir = ForkedRelay(tmp_path / "heir", kafka.bootstrap, topic_prefix, **settings)
        async with lost, heir:
            oracle = Oracle(lost.url)
            lost.start(crash="transaction.after:1")
            await oracle.send(40, give_up=20)
            await lost.ended()
            await lost.serving(KAFKA__BOOTSTRAP_SERVERS=AWAY)
            await oracle.send(60)
            await lost.killed()
            # The other one gets some of them again, too: who may publish them is decided once.
            await heir.serving()
            await oracle.repeat(heir.url, 30)
            file = str(tmp_path / "events")
            code, printed = await lost.command("events", "export", file)
            assert code == 0, printed
            for added in (True, False):
                code, printed = await heir.command("events", "import", file)
                assert code == 0, printed
                assert added is (" 0 events added" not in printed)
            await heir.drained()

            async def all_there() -> bool:
                return not oracle.compare(await consume(kafka.bootstrap, topic_prefix)).missing

            await until(all_there, 20, "every event is on Kafka")
            await heir.drained()
            seen = await consume(kafka.bootstrap, topic_prefix)
            # Started again after all, the old one has nothing to publish.
            await lost.serving()
            await lost.drained()
            assert await lost.stopped() == 0
            assert len(await consume(kafka.bootstrap, topic_prefix)) == len(seen)
    report = oracle.compare(seen)
    assert report.acknowledged >= 60
    assert not report.missing, report
    assert not report.twice, report


async def test_export_needs_kafka(kafka: Broker, tmp_path: Path, topic_prefix: str) -> None:
    """What Kafka already has cannot be known, so nothing is touched."""
    async with ForkedRelay(tmp_path, kafka.bootstrap, topic_prefix) as relay:
        await relay.serving(KAFKA__BOOTSTRAP_SERVERS=AWAY)
        await Oracle(relay.url).send(5)
        code, printed = await relay.command("events", "export", str(tmp_path / "events"))
        assert code == 1
        assert "owns this journal" in printed
        await relay.killed()
        code, printed = await relay.command(
            "events", "export", str(tmp_path / "events"), KAFKA__BOOTSTRAP_SERVERS=AWAY
        )
        assert code == 1
        assert "Kafka is not available" in printed
        assert not (tmp_path / "events").exists()
        code, printed = await relay.command("drain")
        assert code == 0, printed

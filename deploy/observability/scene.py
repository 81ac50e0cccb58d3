"""Makes the picture of the dashboard: two relays, real stores, four minutes of what can happen.

    python -m deploy.observability.scene docs/images/dashboard.png

Kafka hangs for 40 s, requests are forged, events are repeated, long connections are dropped, and
two events are dead letters. Wants what the tests want, and Debian's prometheus and chromium.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import aiohttp

from tests.e2e.process import COMMAND, Relay
from tests.fakes import as_json, encrypt, free_port, sign
from tests.kafka_server import KafkaServer
from tests.oracle import ENCRYPT_KEY, TOKEN
from tests.redis_server import redis_server

HERE = Path(__file__).parent
APP = ("--app-id", "cli_desk", "--app-secret", "a secret of the scene")
KEYS = ("--encrypt-key", ENCRYPT_KEY, "--verification-token", TOKEN)
#: Seconds of each part: all well, Kafka hangs, well again.
WELL, HUNG, AGAIN = 100, 40, 110


@contextmanager
def running(*command: str) -> Iterator[None]:
    """Run a program while the context lasts."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def relays(directory: Path, bootstrap: str, claims: str, feishu: int) -> list[Relay]:
    """Two replicas that take the app `default` by webhook and `desk` over long connections."""
    settings = {
        "CLAIMS__URL": claims,
        "FEISHU_URL": f"http://127.0.0.1:{feishu}",
        "JOURNAL__MAX_BYTES": "64MiB",
        "APPS__DESK__APP_ID": APP[1],
        "APPS__DESK__APP_SECRET": APP[3],
        "APPS__DESK__LONG_CONNECTION": "true",
    }
    return [Relay(directory / f"relay-{n}", bootstrap, "scene.", **settings) for n in range(2)]


def prometheus(directory: Path, relays: list[Relay], port: int) -> list[str]:
    """Give the command that scrapes them."""
    targets = [
        {"targets": [f"127.0.0.1:{relay._admin_port}"], "labels": {"instance": f"relay-{n}"}}
        for n, relay in enumerate(relays)
    ]
    scraped = [{"job_name": "relay", "static_configs": targets}]
    config = directory / "prometheus.yml"
    config.write_text(json.dumps({"global": {"scrape_interval": "2s"}, "scrape_configs": scraped}))
    place = f"--storage.tsdb.path={directory / 'series'}"
    listen = f"--web.listen-address=127.0.0.1:{port}"
    return ["prometheus", f"--config.file={config}", place, listen]


async def dead_letter(relay: Relay, number: int) -> None:
    """Send what is authentic, and no event."""
    body = encrypt(as_json({"header": {"event_id": f"x-{number}", "token": TOKEN}}), ENCRYPT_KEY)
    headers = sign(body, ENCRYPT_KEY)
    async with (
        aiohttp.ClientSession() as session,
        session.post(relay.url, data=body, headers=headers) as answer,
    ):
        answer.raise_for_status()


async def scene(picture: Path, directory: Path, stack: ExitStack) -> None:
    """Run it, and draw."""
    kafka = stack.enter_context(KafkaServer())
    redis = stack.enter_context(redis_server(directory))
    feishu, port = free_port(), free_port()
    first, second = both = relays(directory, kafka.bootstrap, redis.url, feishu)
    async with first, second:
        for relay in both:
            relay.start()
        await asyncio.gather(*(relay.ready() for relay in both))
        stack.enter_context(running(*prometheus(directory, both, port)))
        simulate = (str(COMMAND), "simulate", *KEYS)
        listen = ("--listen", f"127.0.0.1:{feishu}", "--long-connection", *APP)
        stack.enter_context(running(*simulate, *listen, "--rate", "12", "--drop", "45"))
        for relay, rate in zip(both, ("50", "30"), strict=True):
            load = ("--url", relay.url, "--rate", rate, "--hostile", "0.03")
            stack.enter_context(running(*simulate, *load))
        await asyncio.sleep(WELL)
        await dead_letter(first, 1)
        kafka.pause()
        await asyncio.sleep(HUNG)
        kafka.resume()
        await dead_letter(second, 2)
        await asyncio.sleep(AGAIN)
        source = ("--prometheus", f"http://127.0.0.1:{port}", "--rate", "20s")
        minutes = str((WELL + HUNG + AGAIN) / 60)
        draw = (sys.executable, str(HERE / "plot.py"), *source, "--minutes", minutes)
        drawn = await asyncio.create_subprocess_exec(*draw, str(picture))
        if await drawn.wait():
            sys.exit("The picture was not drawn.")


def main() -> None:
    """Clean up whatever happens."""
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        asyncio.run(scene(Path(sys.argv[1]), Path(directory), stack))


if __name__ == "__main__":
    main()

"""Each official SDK takes each event, by webhook and by long connection, and acknowledges it."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from relay.simulator.feishu import Fate, SmallFeishu
from relay.simulator.gateway import GatewayOptions
from tests.fakes import as_json, challenge, encrypt, sign, until
from tests.ports import free_port
from tests.sdk.toolchains import TOOLCHAINS, Toolchain

APP_ID, APP_SECRET = "cli_9f5343c580712544", "sdk-secret"
APP: dict[str, Any] = {"app_id": APP_ID, "app_secret": APP_SECRET}
KEY, TOKEN = "sdk-encrypt-key", "sdk-verification-token"
#: Building for the first time takes a minute or two.
pytestmark = pytest.mark.timeout(600)

TICKET = {
    "ticket_id": "6626871355780366331",
    "helpdesk_id": "6948728206392295444",
    "guest": {"id": {"open_id": "ou_1", "union_id": "on_1", "user_id": "u1"}, "name": "陈思雨"},
    "stage": 1,
    "status": 1,
    "score": 0,
    "created_at": 1700000,
    "updated_at": 1700000,
    "closed_at": 0,
    "channel": 9,
    "solve": 0,
    "customized_fields": [],
    "chat_id": "oc_1",
}
#: One event of each type, in the shape that Feishu's pages document.
BODIES: dict[str, dict[str, object]] = {
    "helpdesk.ticket.created_v1": TICKET,
    "helpdesk.ticket.updated_v1": {
        "object": {**TICKET, "status": 2},
        "old_object": {"status": 1, "updated_at": 1700000},
    },
    "helpdesk.ticket_message.created_v1": {
        "ticket_message_id": "6949088240624222236",
        "message_id": "om_1",
        "msg_type": "text",
        "position": "10",
        "sender_id": {"open_id": "ou_1", "union_id": "on_1", "user_id": "u1"},
        "sender_type": 2,
        "text": "请问vpn怎么下载？",  # what a customer writes
        "ticket": {"ticket_id": "6626871355780366331", "ticket_type": 1, "status": 2},
        "chat_id": "6949088236610273307",
        "content": {"content": "请问vpn怎么下载？", "msg_type": "text"},
    },
    "helpdesk.notification.approve_v1": {
        "notification_id": "6985032626234982420",
        "helpdesk_id": "6948728206392295444",
        "approve_status": "APPROVED",
    },
}


def events(token: str) -> dict[str, bytes]:
    """Give forty events, ten of each type, by their ids."""
    made = {}
    for number in range(10):
        for kind, (event_type, event) in enumerate(BODIES.items()):
            event_id = f"{number:016x}{kind:016x}"
            header = {
                "event_id": event_id,
                "event_type": event_type,
                "create_time": "1608725989000",
                "token": token,
                "app_id": APP_ID,
                "tenant_key": "tenant",
            }
            made[event_id] = as_json({"schema": "2.0", "header": header, "event": event})
    return made


@dataclass
class Program:
    """A running program on an SDK."""

    process: asyncio.subprocess.Process
    seen: list[str] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    other: list[str] = field(default_factory=list)

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            try:
                fields = json.loads(line)
            except ValueError:
                self.other.append(line.decode(errors="replace"))
                continue
            if "ready" in fields:
                self.ready.set()
            elif "event_id" in fields:
                self.seen.append(fields["event_id"])


@asynccontextmanager
async def running(toolchain: Toolchain, mode: str, url: str, port: int) -> AsyncIterator[Program]:
    command = await asyncio.to_thread(toolchain.command)
    environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()}
    process = await asyncio.create_subprocess_exec(
        *(*command, mode, url, str(port), APP_ID, APP_SECRET, KEY, TOKEN),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
    )
    program = Program(process)
    reading = asyncio.create_task(program.read())
    try:
        yield program
    except BaseException:
        sys.stdout.write("".join(program.other)[-4000:])
        raise
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await reading


@asynccontextmanager
async def connected(
    toolchain: Toolchain, options: GatewayOptions, time_scale: float = 0.001
) -> AsyncIterator[tuple[SmallFeishu, Program]]:
    """Run a small Feishu with one client of an SDK."""
    feishu = SmallFeishu(options, time_scale=time_scale)
    await feishu.start()
    try:
        async with running(toolchain, "long-connection", feishu.url, 0) as program:
            await until(lambda: feishu.gateway.clients == 1, seconds=30)
            yield feishu, program
    finally:
        await feishu.stop()


@pytest.fixture(params=TOOLCHAINS, ids=lambda one: one.language)
def toolchain(request: pytest.FixtureRequest) -> Toolchain:
    """Skip at home what cannot be built; CI has everything."""
    chosen: Toolchain = request.param
    if missing := chosen.missing():
        if os.environ.get("CI"):
            pytest.fail(f"CI has no {missing}")
        pytest.skip(f"{missing} is not installed")
    return chosen


async def test_webhook(toolchain: Toolchain) -> None:
    """Signed and encrypted requests get 200; the URL verification gets its challenge."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/webhook/event"
    sent = events(TOKEN)
    async with (
        running(toolchain, "webhook", "", port) as program,
        aiohttp.ClientSession() as session,
    ):
        await asyncio.wait_for(program.ready.wait(), 60)
        statuses = []
        for body in sent.values():
            # Compact, as Feishu writes it: the Node SDK signs what it has parsed and written anew.
            content = as_json(json.loads(encrypt(body, KEY)))
            headers = {"Content-Type": "application/json;charset=utf-8", **sign(content, KEY)}
            async with session.post(url, data=content, headers=headers) as answer:
                await answer.read()
                statuses.append(answer.status)
        assert set(statuses) == {200}
        await until(lambda: len(program.seen) >= len(sent))
        assert sorted(program.seen) == sorted(sent)
        if toolchain.language != "node":  # it answers challenges only if told to
            asked = encrypt(as_json(challenge(TOKEN)), KEY)
            async with session.post(url, data=asked) as answer:
                assert (await answer.json(content_type=None))["challenge"] == challenge()[
                    "challenge"
                ]


async def test_long_connection(toolchain: Toolchain) -> None:
    """The SDK's client connects, pings, and acknowledges each event."""
    async with connected(toolchain, GatewayOptions(**APP, seed=1, ping_interval=1)) as place:
        feishu, program = place
        sent = events("")
        codes = await asyncio.gather(
            *(feishu.gateway.deliver(body, f"m-{name}") for name, body in sent.items())
        )
        assert set(codes) == {200}
        await until(lambda: len(program.seen) >= len(sent))
        assert sorted(program.seen) == sorted(sent)
        await until(lambda: feishu.gateway.pings >= 2)
        assert feishu.gateway.clients == 1


async def test_split_events(toolchain: Toolchain) -> None:
    """Parts are joined. Go and Java do so in parallel and without a lock: some need another try."""
    async with connected(toolchain, GatewayOptions(**APP, seed=1, max_part=400)) as place:
        feishu, program = place
        sent = events("")
        fates = [await feishu.push(body, name) for name, body in sent.items()]
        assert set(fates) == {Fate.DELIVERED}
        await until(lambda: set(program.seen) == set(sent))
        if toolchain.language in {"python", "node"}:
            assert feishu.report.attempts == {200: len(sent)}


async def test_dropped_client_comes_back(toolchain: Toolchain) -> None:
    """And an event that was on its way is delivered to the new connection."""
    options = GatewayOptions(**APP, seed=1, reconnect_nonce=1, reconnect_interval=1)
    async with connected(toolchain, options, time_scale=0.05) as place:
        feishu, program = place
        ((event_id, body), *_) = events("").items()
        # The Java client does not notice a closing handshake.
        await feishu.gateway.drop(clean=False)
        await until(lambda: feishu.gateway.clients == 0)
        assert await feishu.push(body, event_id) is Fate.DELIVERED
        await until(lambda: program.seen == [event_id])
        assert feishu.report.retries[1] == 1

"""Where relay listens: `::` is every address, whichever families the machine has."""

import socket
from contextlib import suppress
from pathlib import Path

import pytest

from relay.settings import Settings
from tests.integration.test_app import running, settings
from tests.ports import free_port


def addresses() -> list[str]:
    """Those of loopback that this machine has."""
    found = ["127.0.0.1"]
    with suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        found.append("[::1]")
    return found


@pytest.mark.parametrize("host", ["::", "0.0.0.0"])
async def test_listeners_are_reached(
    host: str, tmp_path: Path, embedded_kafka: str, topic_prefix: str
) -> None:
    """By callers, balancers, kubelets and browsers of either family, at one port each."""
    webhook, admin, console = free_port(), free_port(), free_port()
    config = Settings.model_validate(
        settings(tmp_path, embedded_kafka, topic_prefix).model_dump()
        | {
            "webhook": {"host": host, "port": webhook},
            "admin": {"host": host, "port": admin},
            "console": {"host": host, "port": console, "password": "long-enough-a-password"},
        }
    )
    wanted = {webhook: 200, admin: 404, console: 401}
    async with running(config) as relay:
        assert (relay.relay.webhook_port, relay.relay.admin_port) == (webhook, admin)
        for address in addresses() if host == "::" else ["127.0.0.1"]:
            for port, status in wanted.items():
                async with relay.session.get(f"http://{address}:{port}/") as answer:
                    assert answer.status == status

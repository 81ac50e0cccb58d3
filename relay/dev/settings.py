"""The settings of `relay dev`: a file of ours, the environment over it, and what none changes."""

import json
import socket
from pathlib import Path
from typing import Any

from relay import settings
from relay.settings import Claims, Settings
from relay.simulator.feishu import SmallFeishu

#: Where nobody listens.
_NOWHERE = "http://127.0.0.1:1"
#: The environment goes over it, but for what `_apart` gives; the secrets guard nothing.
_SETTINGS = """\
[apps.default]
app_id = "cli_9f5343c580712544"
encrypt_key = "dev-encrypt-key"
verification_token = "dev-token"
[apps.plain]
verification_token = "dev-token"
[webhook]
host = "127.0.0.1"
port = {webhook_port}
[admin]
host = "127.0.0.1"
port = {admin_port}
[console]
host = "127.0.0.1"
port = {console_port}
password = "dev-password"
[journal]
path = {journal}
[drain]
delay = 0
[log]
level = "warning"
format = "console"
[kafka]
bootstrap_servers = "{bootstrap}"
"""
#: Added where events come over a long connection too.
_CONNECTED = """\
[apps.connected]
app_id = "{app_id}"
app_secret = "{app_secret}"
long_connection = true
"""


def load(directory: Path, bootstrap: str, feishu: SmallFeishu | None) -> Settings:
    """Load settings as `relay serve` does; without `bootstrap` the environment names a broker.

    Raises SettingsError.
    """
    path = directory / "relay.toml"
    played = feishu.gateway.options if feishu else None
    path.write_text(
        _SETTINGS.format(
            webhook_port=_free(8080),
            admin_port=_free(9090),
            console_port=_free(9091),
            journal=json.dumps(str(directory / "journal.db")),
            bootstrap=bootstrap or "of the environment",
        )
        + (_CONNECTED.format(app_id=played.app_id, app_secret=played.app_secret) if played else "")
    )
    config = settings.load(path)
    return config.model_copy(update=_apart(config, directory, feishu))


def _apart(config: Settings, directory: Path, feishu: SmallFeishu | None) -> dict[str, Any]:
    """Give the settings that no shell may change, as an operator's may name real things.

    Invented events have no place in a real journal or claims store. Real ones have none here: a
    long connection of ours would take a share of them, and they would be forgotten.
    """
    played = {"connected"} if feishu else set()
    apps = {
        name: app.model_copy(update={"long_connection": name in played, "feishu_url": ""})
        for name, app in config.apps.items()
    }
    return {
        "journal": config.journal.model_copy(update={"path": directory / "journal.db"}),
        "claims": Claims(),
        "console": config.console.model_copy(update={"peers": ""}),
        "feishu_url": feishu.url if feishu else _NOWHERE,
        "apps": apps,
    }


def _free(port: int) -> int:
    """Give the port if nobody has it, else 0: any free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return 0
    return port

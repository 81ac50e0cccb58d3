"""What a serving process has loaded, asked of the process itself."""

from pathlib import Path

from tests.e2e.process import Relay
from tests.ports import free_port


async def test_serving_process_has_nothing_of_what_plays_feishu(tmp_path: Path) -> None:
    """With everything switched on; it writes its modules down when it ends."""
    listed = tmp_path / "modules"
    settings = {
        "APPS__DEFAULT__APP_ID": "cli_0123456789abcdef",
        "APPS__DEFAULT__APP_SECRET": "secret",
        "APPS__DEFAULT__LONG_CONNECTION": "true",
        "FEISHU_URL": f"http://127.0.0.1:{free_port()}",
        "CLAIMS__URL": f"redis://127.0.0.1:{free_port()}/0",
        "TRACES__ENDPOINT": f"http://127.0.0.1:{free_port()}/v1/traces",
    }
    async with Relay(tmp_path, f"127.0.0.1:{free_port()}", "loaded.", **settings) as relay:
        relay.start(listing=str(listed))
        await relay.logged("serving")
        await relay.stopped()
    modules = set(listed.read_text().split())
    rooms = {name.split(".")[1] for name in modules if name.startswith("relay.")}
    assert rooms >= {"app", "ingress", "journal", "contract", "egress", "claims", "observe"}
    assert rooms.isdisjoint({"simulator", "dev", "tail"})
    assert "confluent_kafka" not in modules

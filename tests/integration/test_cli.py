"""The commands in this process: their exit codes, and what they say to whoever called them."""

import asyncio
import io
import json
import os
import signal
import socket
import time
import tomllib
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from rich.console import Console
from typer.testing import CliRunner, Result

from relay.cli import main as cli
from relay.cli.say import FAILED, MISUSED
from relay.errors import KafkaUnavailableError, SettingsError
from relay.events import Challenge, Outcome, RawCallback
from relay.ingress import longconn
from relay.ingress.longconn import LongConnection
from relay.observe.metrics import Metrics
from relay.simulator.gateway import GatewayOptions
from tests.fakes import as_json, event, journal_at, payload, until
from tests.integration.test_simulator import accept, target
from tests.ports import free_port

TOKEN = "a-token"


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """What a command does with signals ends with it; uvloop leaves its handlers behind."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def environment(
    embedded_kafka: str, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Set the settings of a relay that will do, but for what a test changes."""

    def change(**changes: object) -> None:
        usual = {
            "APPS__DEFAULT__VERIFICATION_TOKEN": TOKEN,
            "KAFKA__BOOTSTRAP_SERVERS": embedded_kafka,
            "KAFKA__TOPIC_PREFIX": topic_prefix,
            "KAFKA__TIMEOUT": "5s",
            "JOURNAL__PATH": tmp_path / "journal.db",
            "WEBHOOK__HOST": "127.0.0.1",
            "WEBHOOK__PORT": free_port(),
            "ADMIN__PORT": free_port(),
            "DRAIN__DELAY": "0s",
        }
        for name, value in (usual | changes).items():
            monkeypatch.setenv(f"RELAY_{name}", str(value))

    change()
    return change


def run(*arguments: str) -> Result:
    """Run a command in this thread: signals go to it."""
    return CliRunner().invoke(cli.app, arguments)


async def run_beside(*arguments: str) -> Result:
    """Run a command beside this loop."""
    return await asyncio.to_thread(run, *arguments)


def fill(path: Path, *names: str) -> None:
    """Leave a journal behind, with events that nobody has published."""

    async def add() -> None:
        async with journal_at(path) as journal:
            for name in names:
                await journal.add(event(name, as_json(payload(name))))

    asyncio.run(add())


def post(url: str, body: bytes) -> int:
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=5) as answer:  # noqa: S310 - loopback
        return int(answer.status)


def ready(url: str, seconds: float = 20) -> None:
    """Wait until a relay says that it is ready."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - loopback
                return
        except OSError:
            time.sleep(0.01)
    pytest.fail("the relay was never ready")


def test_serve_takes_events_until_it_is_told_to_stop(environment: Callable[..., None]) -> None:
    """What it has taken by then is published."""
    webhook, admin = free_port(), free_port()
    environment(WEBHOOK__PORT=webhook, ADMIN__PORT=admin)

    def operate() -> int:
        ready(f"http://127.0.0.1:{admin}/readyz")
        body = as_json(payload("e-1", token=TOKEN))
        try:
            return post(f"http://127.0.0.1:{webhook}/webhook/event", body)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    with ThreadPoolExecutor() as beside:
        answer = beside.submit(operate)
        served = run("serve")
        assert answer.result() == 200
    assert served.exit_code == 0, served.output
    assert '"left_in_journal": 0' in served.output


async def test_second_signal_ends_the_process_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one lets it drain; either of the two will do."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    cli._stop_on_signals(stop)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(stop.wait(), 5)
        assert codes == []
        os.kill(os.getpid(), signal.SIGINT)
        await until(lambda: codes)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    assert codes == [FAILED]


def complaint(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """Run `relay` as its script does; give the exit code."""
    monkeypatch.setattr("sys.argv", ["relay", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_foreseen_error_is_one_message(
    environment: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "journal.db").write_bytes(b"dear diary")
    assert complaint(["serve"], monkeypatch) == FAILED
    said = capsys.readouterr().err
    assert "relay: " in said
    assert "is not a relay journal" in said
    assert "Traceback" not in said


def test_what_the_system_refuses_is_one_message(
    environment: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the file's name, if it is about one."""
    absent = tmp_path / "absent"
    assert complaint(["events", "import", str(absent)], monkeypatch) == FAILED
    said, advice = capsys.readouterr().err.splitlines()
    assert said == f"relay: No such file or directory: {absent}"
    assert advice.startswith("Next: see that the path is right")
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        environment(WEBHOOK__PORT=holder.getsockname()[1])
        assert complaint(["serve"], monkeypatch) == FAILED
    said, advice = capsys.readouterr().err.splitlines()[-2:]
    assert said.startswith("relay: ")
    assert said.endswith("address already in use")
    assert advice.startswith("Next: end the program that has the port")


def test_pending_events_go_by_file_to_another_replica(
    environment: Callable[..., None], tmp_path: Path
) -> None:
    """All of them, once; then the old journal has nothing to hand over."""
    lost, heir, file = tmp_path / "lost.db", tmp_path / "journal.db", tmp_path / "events"
    fill(lost, "a", "b")
    exported = run("events", "export", str(file), "--journal", str(lost))
    assert f"{file}: 2 events; they are no longer in the journal's care" in exported.output
    for said in ("2 events added, 0 known already", "0 events added, 2 known already"):
        assert f"{heir}: {said}" in run("events", "import", str(file)).output
    listed = run("events", "list", "--json").output.splitlines()
    assert [json.loads(line)["outcome"] for line in listed] == ["pending", "pending"]
    again = run("events", "export", str(tmp_path / "more"), "--journal", str(lost))
    assert "more: 0 events" in again.output


def test_journal_that_is_not_there_is_not_made_by_looking(
    environment: Callable[..., None], tmp_path: Path
) -> None:
    absent = tmp_path / "absent.db"
    for command in (["events", "export", str(tmp_path / "events")], ["drain"]):
        done = run(*command, "--journal", str(absent))
        assert done.exit_code == FAILED
        assert str(done.exception) == f"{absent}: there is no such journal"
    assert list(tmp_path.iterdir()) == []


def test_check_that_finds_a_fault_fails(environment: Callable[..., None], tmp_path: Path) -> None:
    assert run("check").exit_code == 0
    (tmp_path / "journal.db").write_bytes(b"dear diary")
    checked = run("check")
    assert checked.exit_code == FAILED
    assert "FAIL journal" in checked.output
    assert "ok   kafka" in checked.output
    assert "journal_foreign: look at journal.path" in checked.output
    lines = [json.loads(line) for line in run("check", "--json").stdout.splitlines()]
    told = {one["subject"]: (one["code"], one["status"]) for one in lines}
    assert told["journal"] == ("journal_foreign", "fail")
    assert told["kafka"] == ("kafka_ok", "ok")


def test_check_of_wrong_settings_tells_scripts_too(environment: Callable[..., None]) -> None:
    environment(KAFKA__PARTITIONS=0)
    checked = run("check", "--json")
    assert checked.exit_code == MISUSED
    (finding,) = map(json.loads, checked.stdout.splitlines())
    assert (finding["code"], finding["status"]) == ("settings_wrong", "fail")
    assert "kafka.partitions" in finding["sentence"]
    assert isinstance(run("check").exception, SettingsError)


def test_drain_that_leaves_something_fails(
    environment: Callable[..., None], tmp_path: Path
) -> None:
    """Nothing is published before the claims store has said whose it is."""
    fill(tmp_path / "journal.db", "a", "b")
    environment(CLAIMS__URL=f"redis://127.0.0.1:{free_port()}")
    drained = run("drain", "--timeout", "1")
    assert drained.exit_code == FAILED
    assert "journal.db: 2 events left" in drained.output
    drained = run("drain", "--timeout", "0.1s", "--json")
    assert drained.exit_code == FAILED
    path = str(tmp_path / "journal.db")
    assert json.loads(drained.stdout) == {"journal": path, "left": 2, "undecided": 0}


async def test_simulator_sends_to_a_webhook() -> None:
    async with target(accept) as url:
        done = await run_beside("simulate", "--url", url, "--count", "20", "--rate", "0")
    assert done.exit_code == 0, done.output
    assert "every answer was as it must be" in " ".join(done.output.split())


async def test_wrong_answer_fails_the_simulation() -> None:
    """Whoever takes a forgery is found out."""
    async with target(accept) as url:
        done = await run_beside(
            "simulate", "--url", url, "--count", "20", "--rate", "0", "--hostile", "1"
        )
    assert done.exit_code == FAILED
    assert "20 answers not as it must be" in " ".join(done.output.split())


async def test_simulator_plays_feishu_to_the_long_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It waits for a client; one that it drops comes back, and gets every event."""
    monkeypatch.setattr(longconn, "FIRST_WAIT", 0.02)
    monkeypatch.setattr(longconn, "LOST_WAIT", 0.02)
    monkeypatch.setattr(longconn, "LONGEST_WAIT", 0.02)
    port, metrics, taken = free_port(), Metrics(), set[str]()

    async def take(raw: RawCallback) -> Outcome | Challenge:
        taken.add(json.loads(raw.body)["header"]["event_id"])
        return Outcome.ACCEPTED

    options = GatewayOptions()
    client = LongConnection(
        "a", (options.app_id, options.app_secret), f"http://127.0.0.1:{port}", take, metrics
    )
    connecting = asyncio.create_task(client.run())
    events = ("--count", "50", "--rate", "100", "--repeat", "0", "--time-scale", "0.0003")
    place = ("--listen", f"127.0.0.1:{port}", "--long-connection")
    trouble = ("--drop", "0.1", "--max-part", "100")
    done = await run_beside("simulate", *place, *events, *trouble)
    await client.stop()
    await connecting
    assert done.exit_code == 0, done.output
    assert f"Feishu is played at http://127.0.0.1:{port}." in done.output
    assert f"RELAY_FEISHU_URL=http://127.0.0.1:{port}\n" in done.output
    assert "Waiting for a client to connect" in done.output
    assert "0 lost." in done.output
    assert len(taken) == 50
    dropped = {"app": "a", "reason": "dropped"}
    assert metrics.registry.get_sample_value("relay_long_connection_reconnects_total", dropped)


@pytest.mark.parametrize(("host", "shown"), [("", "127.0.0.1"), ("[::1]", "[::1]")])
async def test_simulator_plays_feishu_beside_the_webhook(host: str, shown: str) -> None:
    """Who is at the API is no matter of who gets the events."""
    place = free_port()
    async with target(accept) as url:
        done = await run_beside(
            "simulate", "--listen", f"{host}:{place}", "--url", url, "--count", "5"
        )
    assert done.exit_code == 0, done.output
    assert f"RELAY_FEISHU_URL=http://{shown}:{place}\n" in done.output
    assert "RELAY_APPS__DEFAULT__HELPDESK_TOKEN=" in done.output
    assert "Waiting" not in done.output
    assert "5 acknowledged" in done.output


@pytest.mark.parametrize(
    "story",
    [
        (
            ["Desk", "desk", "the key", "the token", "no:where:at:all", "{kafka}"],
            {"encrypt_key": "the key", "verification_token": "the token"},
            "serve",
        ),
        (["", 'a "quoted" \\ key', "", "{away}"], {"encrypt_key": 'a "quoted" \\ key'}, "check"),
        (
            ["", "", "", "", "cli_1", "hush", "{away}"],
            {"app_id": "cli_1", "app_secret": "hush", "long_connection": True},
            "check",
        ),
    ],
)
def test_first_file_is_asked_for_and_tried(
    story: tuple[list[str], dict[str, object], str],
    environment: Callable[..., None],
    embedded_kafka: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a terminal; what will not do is asked again, and no secret is shown."""
    given, kept, next_ = story
    monkeypatch.delenv("RELAY_APPS__DEFAULT__VERIFICATION_TOKEN")
    monkeypatch.delenv("RELAY_KAFKA__BOOTSTRAP_SERVERS")
    monkeypatch.setenv("RELAY_FEISHU_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr("relay.cli.config.asks", lambda: True)
    path = tmp_path / "relay.toml"
    places = {"kafka": embedded_kafka, "away": f"127.0.0.1:{free_port()}"}
    answers = "".join(f"{one.format(**places)}\n" for one in given)
    done = CliRunner().invoke(cli.app, ["init", str(path)], input=answers)
    assert done.exit_code == 0, done.output
    assert done.output.endswith(f"Next: relay {next_} --config {path}\n")
    (app,) = tomllib.loads(path.read_text())["apps"].values()
    assert app == kept
    assert not any(word in done.output for word in ("the key", "the token", "quoted", "hush"))
    assert ("ok   kafka" in done.output) is (next_ == "serve")


@pytest.mark.parametrize("text", ["-1", "x", "1e999", "nan", "5y", ""])
def test_length_of_time_is_one(text: str) -> None:
    refused = run("check", "--wait", text)
    assert refused.exit_code == MISUSED
    assert "must be a length of time" in refused.output


@pytest.mark.parametrize("listen", ["7070x", "127.0.0.1:", "localhost"])
def test_place_to_listen_has_a_port(listen: str) -> None:
    done = run("simulate", "--listen", listen)
    assert done.exit_code == MISUSED
    assert "--listen is HOST:PORT" in done.output


def test_tail_shows_what_is_there_until_ctrl_c(
    environment: Callable[..., None],
    embedded_kafka: str,
    topic_prefix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    topic = f"{topic_prefix}helpdesk.ticket"

    async def produce() -> None:
        producer = AIOKafkaProducer(bootstrap_servers=embedded_kafka)
        await producer.start()
        await producer.send_and_wait(topic, b'{"a":1}', key=b"k")
        await producer.stop()

    class Reader(io.StringIO):
        """Presses Ctrl-C as soon as there is a line."""

        def flush(self) -> None:
            if self.getvalue() and not self.closed:
                monkeypatch.setattr(Reader, "flush", io.StringIO.flush)
                os.kill(os.getpid(), signal.SIGINT)

    asyncio.run(produce())
    out = Reader()
    monkeypatch.setattr(cli, "console", lambda: Console(file=out, width=120))
    done = run("tail", "--from-beginning", "--json", "--topic", topic)
    assert done.exit_code == 0, done.output
    (line,) = out.getvalue().splitlines()
    assert json.loads(line)["topic"] == topic
    assert json.loads(line)["value"] == {"a": 1}


def test_tail_of_no_broker_fails(environment: Callable[..., None]) -> None:
    """All topics of the settings, where none is named."""
    address = f"127.0.0.1:{free_port()}"
    environment(KAFKA__BOOTSTRAP_SERVERS=address)
    done = run("tail")
    assert isinstance(done.exception, KafkaUnavailableError)
    assert f"no broker answers at {address}" in str(done.exception)

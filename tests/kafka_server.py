"""A real Apache Kafka on loopback: one process, started, paused, killed and stopped at will.

Kafka itself comes from Maven, once, into a cache; Java 17 runs it. Tests and benchmarks use it.
"""

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

from tests.builds import alone
from tests.ports import free_port

#: The newest Kafka, on which most tests run, and an old one, which a few run on too.
NEWEST, OLDEST = "4.4.0", "3.9.2"
#: Which one is meant where a test names none.
USUAL = os.environ.get("RELAY_TEST_KAFKA_VERSION") or NEWEST
MINIMUM_JAVA = 17
CLUSTER_ID = "cmVsYXktdGVzdC1rYWZrYQ"
READY_LINE = b"Kafka Server started"
#: Seconds until each partition's id is on disk; more than a busy disk takes.
IDS_WITHIN = 10.0

#: Bounded memory, and compiled quickly rather than well: most of these live for seconds.
TEST_JVM = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
#: For measurements: what a server would use.
BENCH_JVM = ("-Xms512m", "-Xmx512m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20")

#: Added to `properties`: nobody may do anything without an ACL, except on PLAINTEXT.
AUTHORIZER: Mapping[str, str] = {
    "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
    "super.users": "User:ANONYMOUS",
}


class KafkaError(Exception):
    """Kafka could not be fetched, formatted or started; the text holds the end of its log."""


class Broker(Protocol):
    """Some Kafka that is there: ours, or the one that RELAY_TEST_KAFKA names."""

    @property
    def bootstrap(self) -> str:
        """`host:port` of the plaintext listener."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalKafka:
    """A Kafka that somebody else runs: used, never started or stopped."""

    bootstrap: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One more listener beside PLAINTEXT, with its own port."""

    name: str
    protocol: str
    #: Settings of this listener only, without the `listener.name.` prefix.
    properties: Mapping[str, str] = field(default_factory=dict)
    #: Where clients are sent, if a proxy stands before it.
    advertised_port: int = 0


def available() -> str | None:
    """Why no Kafka can be started on this machine; None if one can."""
    java = _java()
    if java is None:
        return "no java: neither JAVA_HOME nor the PATH has one"
    if (version := _java_version(java)) < MINIMUM_JAVA:
        return f"java {version} is too old: Kafka {USUAL} needs {MINIMUM_JAVA}"
    if not _cache(USUAL).is_dir() and shutil.which("mvn") is None:
        return f"no mvn to fetch Kafka {USUAL} with"
    return None


class KafkaServer:
    """One broker and controller in one process. Restarts keep ports and data."""

    def __init__(
        self,
        *,
        version: str = USUAL,
        properties: Mapping[str, str] | None = None,
        listeners: Sequence[Listener] = (),
        scram_users: Mapping[str, str] | None = None,
        jvm: Sequence[str] = TEST_JVM,
        command_prefix: Sequence[str] = (),
        host: str = "127.0.0.1",
    ) -> None:
        """Start nothing yet; `command_prefix` may pin it, as in `("taskset", "-c", "1")`.

        `host` is its address, an IPv6 one in brackets.
        """
        self.version = version
        self._listeners = listeners
        self.properties = dict(properties or {})
        self._scram_users = dict(scram_users or {})
        self._jvm = jvm
        self._command_prefix = command_prefix
        self._host = host
        self._directory: Path | None = None
        names = ["CONTROLLER", "PLAINTEXT", *(listener.name for listener in listeners)]
        self._ports = {name: free_port() for name in names}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    @property
    def bootstrap(self) -> str:
        """`host:port` of the plaintext listener."""
        return self.address("PLAINTEXT")

    def address(self, listener: str) -> str:
        """`host:port` of a listener by its name."""
        return f"{self._host}:{self._ports[listener]}"

    @property
    def pid(self) -> int:
        """The process id of the running broker."""
        return self._running().pid

    @property
    def log(self) -> str:
        """What Kafka printed so far."""
        if self._directory is None:
            return ""
        return self._log_file.read_text(errors="replace")

    def start(self, timeout: float = 60) -> None:
        """Format a store if this is the first start, run Kafka and wait until it serves."""
        if self._process is not None:
            raise KafkaError("It runs already.")
        libraries = fetch(self.version)
        if self._directory is None:
            self._prepare(libraries)
        printed = self._log_file.stat().st_size
        self._process = self._spawn(libraries)
        try:
            self._wait_until_ready(printed, time.monotonic() + timeout)
        except KafkaError:
            self.kill()
            raise

    def stop(self, timeout: float = 20) -> None:
        """End it in an orderly way, by force after the timeout, and remove its data."""
        self._terminate(timeout)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def kill(self) -> None:
        """SIGKILL; the data stays for `restart`.

        A partition's id is written a moment after the partition is there; one without an id Kafka
        throws away when it starts (KAFKA-16814), and what it has acknowledged with it.
        """
        process = self._running()
        deadline = time.monotonic() + IDS_WITHIN
        while self._without_id() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        self._process = None
        process.kill()
        process.wait()

    def _without_id(self) -> list[Path]:
        partitions = [
            one
            for one in (self._home / "data").glob("*-*")
            if one.name[-1].isdigit() and one.name != "__cluster_metadata-0"
        ]
        return [one for one in partitions if not (one / "partition.metadata").exists()]

    def pause(self) -> None:
        """Hang: connections stay open and nothing answers."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._running().send_signal(signal.SIGCONT)

    def restart(self, timeout: float = 60) -> None:
        """Start again, on the same ports and data; stops it first if it runs."""
        self._terminate(timeout)
        self.start(timeout)

    @property
    def _home(self) -> Path:
        if self._directory is None:
            raise KafkaError("It was never started.")
        return self._directory

    @property
    def _log_file(self) -> Path:
        return self._home / "server.log"

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise KafkaError("It does not run.")
        return self._process

    def _terminate(self, timeout: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _prepare(self, libraries: Path) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="relay-kafka-"))
        settings = self._settings()
        text = "".join(f"{key}={value}\n" for key, value in settings.items())
        (self._home / "server.properties").write_text(text)
        self._log_file.touch()
        self._format(libraries)

    def _settings(self) -> dict[str, str]:
        controller = self.address("CONTROLLER")
        protocols = {"CONTROLLER": "PLAINTEXT", "PLAINTEXT": "PLAINTEXT"}
        protocols |= {listener.name: listener.protocol for listener in self._listeners}
        served = {name: f"{name}://{self.address(name)}" for name in protocols}
        advertised = {name: url for name, url in served.items() if name != "CONTROLLER"} | {
            listener.name: f"{listener.name}://{self._host}:{listener.advertised_port}"
            for listener in self._listeners
            if listener.advertised_port
        }
        settings = {
            **_SETTINGS,
            "controller.quorum.voters": f"1@{controller}",
            "listeners": ",".join(served.values()),
            "advertised.listeners": ",".join(advertised.values()),
            "listener.security.protocol.map": ",".join(f"{n}:{p}" for n, p in protocols.items()),
            "log.dirs": str(self._home / "data"),
        }
        for listener in self._listeners:
            prefix = f"listener.name.{listener.name.lower()}."
            settings |= {prefix + key: value for key, value in listener.properties.items()}
        return settings | self.properties

    def _format(self, libraries: Path) -> None:
        """Copy what an earlier store of these settings was formatted to; it knows no port."""
        settings = {**self.properties, "controller.quorum.voters": ""}
        name = _digest(sorted(settings.items()), sorted(self._scram_users.items()))
        formatted, data = libraries.with_name(f"{libraries.name}-store-{name}"), self._home / "data"
        with alone(formatted):
            if formatted.is_dir():
                shutil.copytree(formatted, data)
                return
            self._format_anew(libraries)
            copy = formatted.with_name(f"{formatted.name}.new")
            shutil.copytree(data, copy, dirs_exist_ok=True)
            copy.rename(formatted)

    def _format_anew(self, libraries: Path) -> None:
        config = str(self._home / "server.properties")
        arguments = ["format", "--config", config, "--cluster-id", CLUSTER_ID]
        for name, password in self._scram_users.items():
            arguments += ["--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]"]
        command = [*_java_command(libraries, self._jvm), "kafka.tools.StorageTool", *arguments]
        _run(command, "Formatting the store failed")

    def _spawn(self, libraries: Path) -> subprocess.Popen[bytes]:
        options = (
            *self._jvm,
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
        )
        if (
            tuple(self._jvm[: len(TEST_JVM)]) == TEST_JVM
            and (classes := _classes(libraries)).is_file()
        ):
            options += (f"-XX:SharedArchiveFile={classes}",)
        command = [*self._command_prefix, *_java_command(libraries, options)]
        command += ["kafka.Kafka", str(self._home / "server.properties")]
        with self._log_file.open("ab") as log:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )

    def _wait_until_ready(self, printed: int, deadline: float) -> None:
        while READY_LINE not in self._log_file.read_bytes()[printed:]:
            if self._running().poll() is not None:
                raise KafkaError(f"Kafka ended at start:\n{self.log[-2000:]}")
            if time.monotonic() > deadline:
                raise KafkaError(f"Kafka was not ready in time:\n{self.log[-2000:]}")
            time.sleep(0.05)


#: One node that is quick: nothing replicated, no waiting for group members, short sessions so
#: that a killed broker may register again at once.
_SETTINGS: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "3000",
    "controlled.shutdown.enable": "false",
    "default.replication.factor": "1",
    "group.initial.rebalance.delay.ms": "0",
    # An idle one writes, and syncs, nothing: by itself it does so twice a second.
    "metadata.max.idle.interval.ms": "0",
    "offsets.topic.num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    # A transaction that has timed out is aborted soon after it.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
}


def fetch(version: str = USUAL) -> Path:
    """The directory with Kafka's jars; Maven fills it the first time."""
    if (cache := _cache(version)).is_dir():
        return cache
    cache.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache.parent) as scratch:
        project, jars = Path(scratch) / "pom.xml", Path(scratch) / "jars"
        project.write_text(_project_file(version))
        maven = ["mvn", "--batch-mode", "--quiet", "--file", str(project)]
        maven += ["dependency:copy-dependencies", "-DincludeScope=runtime"]
        _run([*maven, f"-DoutputDirectory={jars}"], "Maven could not fetch Kafka")
        # Another process may have been faster: then its directory is as good.
        with contextlib.suppress(OSError):
            jars.rename(cache)
    return cache


def share_classes(version: str = USUAL) -> None:
    """Keep what a start has loaded and verified: the next ones take half the time."""
    with alone(classes := _classes(fetch(version))):
        if classes.is_file():
            return
        dumped = classes.with_suffix(".new")
        dumped.unlink(missing_ok=True)
        server = KafkaServer(version=version, jvm=(*TEST_JVM, f"-XX:ArchiveClassesAtExit={dumped}"))
        server.start(120)
        server.stop(120)
        dumped.rename(classes)


def _classes(libraries: Path) -> Path:
    """Where such classes are; Java itself looks whether they are its own, and of these jars."""
    java = Path(_existing_java()).resolve()
    return libraries.with_name(f"{libraries.name}-{_digest(java, java.stat().st_mtime_ns)}.jsa")


def _digest(*words: object) -> str:
    return hashlib.sha256(repr(words).encode()).hexdigest()[:12]


def _project_file(version: str) -> str:
    artifacts = (
        ("org.apache.kafka", "kafka_2.13", version),
        ("org.slf4j", "slf4j-simple", "1.7.36"),
    )
    dependencies = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId>"
        f"<version>{number}</version></dependency>"
        for group, name, number in artifacts
    )
    return (
        "<project><modelVersion>4.0.0</modelVersion><groupId>relay</groupId>"
        "<artifactId>test-kafka</artifactId><version>1</version>"
        f"<dependencies>{dependencies}</dependencies></project>"
    )


def _cache(version: str) -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "relay-test" / f"kafka-{version}"


def _java() -> str | None:
    home = os.environ.get("JAVA_HOME")
    return shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")


def _java_version(java: str) -> int:
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(\d+)', said.stderr)
    return int(found[1]) if found else 0


def _existing_java() -> str:
    if (java := _java()) is None:
        raise KafkaError("There is no java.")
    return java


def _java_command(libraries: Path, options: Sequence[str]) -> list[str]:
    return [_existing_java(), *options, "-cp", f"{libraries}/*"]


def _run(command: Sequence[str], complaint: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KafkaError(f"{complaint}: {error}") from error
    if done.returncode != 0:
        raise KafkaError(f"{complaint}:\n{(done.stdout + done.stderr)[-2000:]}")

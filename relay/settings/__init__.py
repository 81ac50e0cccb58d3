"""What an operator can set: a TOML file, overridden by the environment; secrets also as files.

Reads the environment and files once, at start, and reports every mistake at once, by name.
"""

import os
import tomllib
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from relay.errors import SettingsError
from relay.settings import patterns, topics, values
from relay.settings.apps import App
from relay.settings.claims import Claims, OnOutage
from relay.settings.console import Console
from relay.settings.environment import SECRETS as _SECRETS
from relay.settings.environment import Environment, named
from relay.settings.login import Login, lacking
from relay.settings.privacy import Privacy
from relay.settings.topics import PARTITIONS
from relay.settings.topics import config as topic_settings
from relay.settings.values import (
    MISFIT,
    TIME,
    AppName,
    Bytes,
    Count,
    Endpoint,
    File,
    Host,
    Limit,
    Port,
    Seconds,
    Secret,
)

__all__ = [
    "SHORTEST_DEDUPE_WINDOW",
    "_SECRETS",
    "Admin",
    "App",
    "AppName",
    "Claims",
    "Console",
    "Delivery",
    "Drain",
    "Given",
    "Journal",
    "Kafka",
    "Log",
    "OnOutage",
    "Privacy",
    "Settings",
    "Traces",
    "Webhook",
    "checked",
    "given",
    "load",
]

#: Feishu's last retry, signed 7.1 hours after the first attempt, passes until 8 hours later.
SHORTEST_DEDUPE_WINDOW = 16 * 3600
#: A year; what is longer is no time that somebody meant.
LONGEST_DEDUPE_WINDOW = 366 * 86400


class Delivery(StrEnum):
    """What a consumer can rely on."""

    EXACTLY_ONCE = "exactly-once"
    AT_LEAST_ONCE = "at-least-once"


class _Section(BaseModel):
    model_config = values.SECTION


class Webhook(_Section):
    """The listener that Feishu calls."""

    #: All addresses of both families: Feishu must reach it, and nothing passes without a signature.
    host: Host = "::"
    port: Port = 8080
    max_body_bytes: Bytes = 2**20
    #: A client that has not sent its body by then is answered 408 and cut off.
    read_timeout: Limit = 10
    #: A connection between two requests; longer than any balancer before it keeps one.
    idle_timeout: Limit = 620


class Admin(_Section):
    """The listener for probes and metrics; it must not be reachable from outside."""

    host: Host = "127.0.0.1"
    port: Port = 9090


class Journal(_Section):
    """Where accepted events live until Kafka has them, and how long they are remembered."""

    path: File = Path("data/journal.db")
    max_bytes: Bytes = 8 * 2**30
    dedupe_window: Annotated[
        float,
        Field(ge=SHORTEST_DEDUPE_WINDOW, le=LONGEST_DEDUPE_WINDOW, allow_inf_nan=False),
        TIME,
    ] = 24 * 3600
    #: Requests that may wait for a commit; past it new ones get 503.
    max_waiting: Count = 4096
    #: Accept a journal on a network file system, whose locks and fsync may not hold.
    network_volume: bool = False


class Kafka(Login):
    """The brokers, the topics and what a consumer may rely on."""

    bootstrap_servers: Annotated[str, AfterValidator(values.brokers)]
    delivery: Delivery = Delivery.EXACTLY_ONCE
    topic_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]*$")] = "feishu."
    #: Event type, wildcard, `other` or `dead_letter` → topic name without the prefix.
    topics: Annotated[dict[str, str], Field(validate_default=True)] = Field(default={})
    #: Event type or wildcard → where the record's key stands, from Feishu's `event`.
    keys: dict[str, str] = Field(default={})
    #: Whether dead letters have the body that Feishu sent, the app's token in it.
    dead_letter_value: bool = True
    create_topics: bool = True
    partitions: Count = PARTITIONS
    #: -1 is the broker's own default.
    replication_factor: Annotated[int, Field(ge=-1, lt=2**15)] = -1
    #: Kafka's own settings of a topic that is made, by their names.
    topic_config: Annotated[dict[str, str], BeforeValidator(topic_settings)] = Field(default={})
    #: How a batch of records is packed.
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_password: Annotated[Secret, Field(validate_default=True)] = SecretStr("")
    ca_file: File | None = None
    cert_file: File | None = None
    key_file: Annotated[File | None, Field(validate_default=True)] = None
    #: Every exchange with Kafka ends by then; what is unknown at that point is read back.
    timeout: Annotated[float, Field(ge=0.1, le=300, allow_inf_nan=False), TIME] = 30
    #: No connection is idle for longer, and what is known of the cluster is no older.
    idle_timeout: Annotated[float, Field(ge=1, le=86400, allow_inf_nan=False), TIME] = 180

    @property
    def brokers(self) -> tuple[Endpoint, ...]:
        """The bootstrap servers."""
        return values.endpoints(self.bootstrap_servers, values.KAFKA_PORT)

    @property
    def routes(self) -> tuple[str, dict[str, str], dict[str, str]]:
        """What decides where an event goes, and by which key: prefix, topics, keys."""
        return self.topic_prefix, self.topics, self.keys

    @field_validator("topics")
    @classmethod
    def _distinct(cls, changes: dict[str, str], before: ValidationInfo) -> dict[str, str]:
        """Kafka takes each topic's name, and nobody reads what he did not ask for."""
        if found := list(topics.mistakes(before.data.get("topic_prefix", ""), changes)):
            raise ValueError("\n".join(found))
        return changes

    @field_validator("keys")
    @classmethod
    def _paths(cls, keys: dict[str, str]) -> dict[str, str]:
        if found := list(patterns.path_mistakes(keys, topics.NO_TYPES)):
            raise ValueError("\n".join(found))
        return keys

    @field_validator("sasl_password")
    @classmethod
    def _complete(cls, password: SecretStr, before: ValidationInfo) -> SecretStr:
        sasl = before.data.get("security_protocol", "").startswith("SASL")
        if sasl and (message := lacking({**before.data, "sasl_password": password})):
            raise PydanticCustomError(MISFIT, "{message}", {"message": message})
        return password

    @field_validator("key_file")
    @classmethod
    def _with_certificate(cls, key_file: Path | None, before: ValidationInfo) -> Path | None:
        if "cert_file" in before.data and (before.data["cert_file"] is None) != (key_file is None):
            raise PydanticCustomError(MISFIT, "cert_file and key_file go together")
        return key_file


class Drain(_Section):
    """How a stop goes: accept for `delay`, then publish what is left for at most `timeout`."""

    delay: Seconds = 5
    timeout: Seconds = 25


class Traces(_Section):
    """Where each event's span goes; no endpoint: nothing is exported."""

    #: An OpenTelemetry collector's URL, as `http://collector:4318/v1/traces`.
    endpoint: Annotated[str, AfterValidator(values.collector_url)] = ""

    @field_validator("endpoint")
    @classmethod
    def _installed(cls, endpoint: str) -> str:
        try:
            found = not endpoint or find_spec("opentelemetry.exporter.otlp.proto.http")
        except ModuleNotFoundError:
            found = None
        if not found:
            raise ValueError("needs OpenTelemetry: requirements/traces.txt")
        return endpoint


class Log(_Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    #: Unset: `console` on a terminal, `json` elsewhere.
    format: Literal["json", "console"] | None = None


class Settings(_Section):
    """Everything at once; `load` is the way to get one."""

    apps: dict[AppName, App] = Field(min_length=1)
    kafka: Kafka
    webhook: Webhook = Webhook()
    admin: Annotated[Admin, Field(validate_default=True)] = Admin()
    console: Annotated[Console, Field(validate_default=True)] = Console()
    journal: Journal = Journal()
    privacy: Privacy = Privacy()
    claims: Claims = Claims()
    #: Feishu's API, for each app that names no other; Lark's is `https://open.larksuite.com`.
    feishu_url: Annotated[str, AfterValidator(values.feishu_url)] = "https://open.feishu.cn"
    drain: Drain = Drain()
    log: Log = Log()
    traces: Traces = Traces()

    def feishu(self, app: App) -> str:
        """Where Feishu's API is for an app."""
        return app.feishu_url or self.feishu_url

    def at(self, journal: Path | None) -> Self:
        """Give these settings for another journal's file."""
        if journal is None:
            return self
        moved = self.journal.model_copy(update={"path": journal})
        return self.model_copy(update={"journal": moved})

    @field_validator("privacy")
    @classmethod
    def _unexposed(cls, privacy: Privacy, before: ValidationInfo) -> Privacy:
        """A record's key is read as Feishu sends it."""
        kafka = before.data.get("kafka")
        if kafka and (found := list(privacy.exposed(kafka.keys))):
            raise ValueError("\n".join(found))
        return privacy

    @field_validator("admin")
    @classmethod
    def _apart(cls, admin: Admin, before: ValidationInfo) -> Admin:
        """Two listeners cannot have one port."""
        _refuse_port_of("webhook", admin, before)
        return admin

    @field_validator("console")
    @classmethod
    def _apart_too(cls, console: Console, before: ValidationInfo) -> Console:
        if console.password.get_secret_value():
            _refuse_port_of("webhook", console, before)
            _refuse_port_of("admin", console, before)
        return console


def _refuse_port_of(name: str, listener: Admin | Console, before: ValidationInfo) -> None:
    other: Webhook | Admin | None = before.data.get(name)
    if other and listener.port and listener.port == other.port:
        hosts = {listener.host, other.host}
        if len(hosts) == 1 or hosts & {"0.0.0.0", "::"}:  # noqa: S104 - only compared
            raise ValueError(f"has the port of the {name}; each needs its own")


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What an operator has set, not yet looked at."""

    environment: Environment
    #: The TOML file, if one is named, and what it holds.
    path: Path | None
    file: dict[str, Any]
    #: Why the file cannot be read.
    unread: str
    #: The variables over the file.
    values: dict[str, Any]


def given(config: Path | None = None) -> Given:
    """Read the TOML file (`config`, else `RELAY_CONFIG`), and the environment over it."""
    environment = Environment(os.environ, Settings)
    path = config or (Path(environment.config) if environment.config else None)
    file, unread = _read_toml(path) if path else ({}, "")
    values = environment.over(file)
    return Given(environment=environment, path=path, file=file, unread=unread, values=values)


def load(config: Path | None = None) -> Settings:
    """Read what is set, and look at it.

    Raises SettingsError with one line for each mistake, of all that there are.
    """
    return checked(given(config))


def checked(found: Given) -> Settings:
    """Look at what is set; raises SettingsError."""
    mistakes = found.environment.findings + ([found.unread] if found.unread else [])
    try:
        settings = Settings.model_validate(found.values)
    except ValidationError as error:
        errors = error.errors(include_input=False, include_url=False)
        # What the file would have had is not missing.
        known = [e for e in errors if not found.unread or e["type"] not in {"missing", MISFIT}]
        mistakes += [line for one in known for line in _sentences(one, found.environment)]
    if mistakes:
        raise SettingsError("\n".join(mistakes))
    return settings


def _read_toml(path: Path) -> tuple[dict[str, Any], str]:
    """Read the file; else say why it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")), ""
    except OSError as error:
        return {}, f"{path}: {error.strerror}"
    except (ValueError, RecursionError) as error:
        return {}, f"{path}: not TOML: {error}"


def _sentences(mistake: ErrorDetails, environment: Environment) -> list[str]:
    """Name a mistake by both of its names: `kafka.partitions (RELAY_KAFKA__PARTITIONS): …`."""
    path = [str(part) for part in mistake["loc"] if part != "[key]"]
    message = mistake["msg"].removeprefix("Value error, ")
    if mistake["type"] == "extra_forbidden":
        message = environment.unknown(path)
    elif mistake["type"] == "missing":
        message = "is required"
    elif mistake["type"] == MISFIT:
        path = path[:-1]
    return [f"{named(path)}: {line}" for line in message.splitlines()]

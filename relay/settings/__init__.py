"""What an operator can set: a TOML file, overridden by the environment; secrets also as files.

Reads the environment and files once, at start, and reports every mistake at once, by name.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as UnreadableSettingError

from relay.errors import SettingsError

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SECRETS = (
    "__app_secret",
    "__encrypt_key",
    "__previous_encrypt_key",
    "__verification_token",
    "__previous_verification_token",
    "__sasl_password",
    "__helpdesk_token",
    "_claims__url",
)
_SIZES = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def _seconds(value: object) -> object:
    """Accept `24h`, `1.5s`, `200ms` and plain numbers of seconds."""
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9.]+)\s*(ms|s|m|h|d)", value)):
        return float(match[1]) * _UNITS[match[2]]
    return value


def _bytes(value: object) -> object:
    """Accept `8GiB`, `512 MiB` and plain numbers of bytes."""
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9.]+)\s*([A-Za-z]*)", value)):
        factor = _SIZES.get(match[2].upper())
        return value if factor is None else int(float(match[1]) * factor)
    return value


Seconds = Annotated[float, BeforeValidator(_seconds), Field(ge=0)]
Bytes = Annotated[int, BeforeValidator(_bytes), Field(gt=0)]
Port = Annotated[int, Field(ge=0, le=65535)]
_CLAIMS_URL = re.compile(
    r"rediss?(\+cluster)?://([^@/\s]*@)?[^@/\s]+(/[0-9]*)?"
    r"|rediss?\+sentinel://([^@/\s]*@)?[^@/\s]+/[^/\s]+(/[0-9]+)?"
)
AppName = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")]

#: Feishu's last retry, signed 7.1 hours after the first attempt, passes until 8 hours later.
SHORTEST_DEDUPE_WINDOW = 16 * 3600


class Delivery(StrEnum):
    """What a consumer can rely on."""

    EXACTLY_ONCE = "exactly-once"
    AT_LEAST_ONCE = "at-least-once"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class App(_Section):
    """One Feishu app: how its callbacks are verified."""

    app_id: str = ""
    app_secret: SecretStr = SecretStr("")
    encrypt_key: SecretStr = SecretStr("")
    previous_encrypt_key: SecretStr = SecretStr("")
    verification_token: SecretStr = SecretStr("")
    previous_verification_token: SecretStr = SecretStr("")
    #: Fetch the events over a connection that relay opens, instead of waiting to be called.
    long_connection: bool = False
    #: The service desk whose events `relay subscribe` asks for, and its token.
    helpdesk_id: str = ""
    helpdesk_token: SecretStr = SecretStr("")

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.long_connection:
            if not self.app_id or not self.app_secret.get_secret_value():
                raise ValueError("long_connection needs an app_id and an app_secret")
        elif not self.encrypt_keys and not self.verification_tokens:
            message = "needs an encrypt_key or a verification_token: nobody could be told apart"
            raise ValueError(message)
        return self

    @property
    def encrypt_keys(self) -> tuple[str, ...]:
        """The current key, then the previous one; without those that are not set."""
        return _present(self.encrypt_key, self.previous_encrypt_key)

    @property
    def verification_tokens(self) -> tuple[str, ...]:
        """The current token, then the previous one; without those that are not set."""
        return _present(self.verification_token, self.previous_verification_token)


def _present(*secrets: SecretStr) -> tuple[str, ...]:
    return tuple(secret.get_secret_value() for secret in secrets if secret.get_secret_value())


class Webhook(_Section):
    """The listener that Feishu calls."""

    host: str = "0.0.0.0"  # noqa: S104 - Feishu must reach it; nothing passes without a signature
    port: Port = 8080
    max_body_bytes: Bytes = 2**20
    #: A client that has not sent its body by then is answered 408 and cut off.
    read_timeout: Seconds = 10


class Admin(_Section):
    """The listener for probes and metrics; it must not be reachable from outside."""

    host: str = "127.0.0.1"
    port: Port = 9090


class Journal(_Section):
    """Where accepted events live until Kafka has them, and how long they are remembered."""

    path: Path = Path("data/journal.db")
    max_bytes: Bytes = 8 * 2**30
    dedupe_window: Annotated[float, BeforeValidator(_seconds), Field(ge=SHORTEST_DEDUPE_WINDOW)] = (
        24 * 3600
    )
    #: Requests that may wait for a commit; past it new ones get 503.
    max_waiting: Annotated[int, Field(gt=0)] = 4096


class Kafka(_Section):
    """The brokers, the topics and what a consumer may rely on."""

    bootstrap_servers: str = Field(min_length=1)
    delivery: Delivery = Delivery.EXACTLY_ONCE
    topic_prefix: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]*$")] = "feishu."
    #: Event type, `other` or `dead_letter` → topic name without the prefix.
    topics: dict[str, Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$")]] = Field(
        default_factory=dict
    )
    create_topics: bool = True
    partitions: Annotated[int, Field(gt=0)] = 12
    #: -1 is the broker's own default.
    replication_factor: Annotated[int, Field(ge=-1)] = -1
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    sasl_username: str = ""
    sasl_password: SecretStr = SecretStr("")
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    #: Every exchange with Kafka ends by then; what is unknown at that point is read back.
    timeout: Annotated[float, BeforeValidator(_seconds), Field(gt=0, le=300)] = 30

    @model_validator(mode="after")
    def _complete(self) -> Self:
        known = self.sasl_username and self.sasl_password.get_secret_value()
        if self.security_protocol.startswith("SASL") and not known:
            message = "security_protocol uses SASL, so sasl_username and sasl_password are needed"
            raise ValueError(message)
        if (self.cert_file is None) != (self.key_file is None):
            message = "cert_file and key_file go together"
            raise ValueError(message)
        return self


class OnOutage(StrEnum):
    """What to do with events while the claims store is away."""

    HOLD = "hold"
    PUBLISH = "publish"


class Claims(_Section):
    """Where several replicas agree on who publishes an event; no URL: there is one replica."""

    #: `redis://` or `rediss://`; `+sentinel` and `+cluster` behind either. It may hold a password.
    url: SecretStr = SecretStr("")
    on_outage: OnOutage = OnOutage.HOLD
    key_prefix: str = "relay:"
    #: This replica's name, and that of one whose past must be in the store before this publishes.
    replica: str = ""
    after: str = ""
    ca_file: Path | None = None
    timeout: Annotated[float, BeforeValidator(_seconds), Field(gt=0, le=60)] = 2

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: SecretStr) -> SecretStr:
        text = url.get_secret_value()
        if text and not _CLAIMS_URL.fullmatch(text):
            # The value may hold a password, so it is not repeated.
            raise ValueError(
                "must be redis://host:port, rediss://host:port, redis+sentinel://host:port/service "
                "or redis+cluster://host:port"
            )
        return url


class Drain(_Section):
    """How a stop goes: accept for `delay`, then publish what is left for at most `timeout`."""

    delay: Seconds = 5
    timeout: Seconds = 25


class Traces(_Section):
    """Where each event's span goes; no endpoint: nothing is exported."""

    #: An OpenTelemetry collector's URL, as `http://collector:4318/v1/traces`.
    endpoint: Annotated[str, Field(pattern=r"^(https?://[^/\s]+/\S*)?$")] = ""

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


class _Environment(EnvSettingsSource):
    """The environment, where each secret may also be a file: `<NAME>_FILE` or RELAY_SECRETS_DIR."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        variables = dict(super()._load_env_vars())
        if directory := variables.pop("relay_secrets_dir", None):
            variables |= _read_secrets(Path(directory))
        for name in list(variables):
            setting, path = name.removesuffix("_file"), variables[name]
            if name != setting and setting.endswith(_SECRETS) and path:
                del variables[name]
                variables[setting] = _read_secret(Path(path))
        return variables


class Settings(BaseSettings):
    """Everything at once; `load` is the way to get one."""

    model_config = SettingsConfigDict(
        env_prefix="RELAY_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    apps: dict[AppName, App] = Field(min_length=1)
    kafka: Kafka
    webhook: Webhook = Webhook()
    admin: Admin = Admin()
    journal: Journal = Journal()
    claims: Claims = Claims()
    #: Feishu's API; Lark's is `https://open.larksuite.com`.
    feishu_url: Annotated[str, Field(pattern=r"^https?://[^/\s]+/?$")] = "https://open.feishu.cn"
    drain: Drain = Drain()
    log: Log = Log()
    traces: Traces = Traces()

    def at(self, journal: Path | None) -> Self:
        """Give these settings for another journal's file."""
        if journal is None:
            return self
        moved = self.journal.model_copy(update={"path": journal})
        return self.model_copy(update={"journal": moved})

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment goes before the file, whose values `load` passes in."""
        del env_settings, dotenv_settings, file_secret_settings
        return _Environment(settings_cls), init_settings


def load(config: Path | None = None) -> Settings:
    """Read the TOML file (`config`, else `RELAY_CONFIG`), and the environment over it.

    Raises SettingsError with one line for each mistake.
    """
    if config is None and os.environ.get("RELAY_CONFIG"):
        config = Path(os.environ["RELAY_CONFIG"])
    try:
        return Settings(**(_read_toml(config) if config else {}))
    except ValidationError as error:
        mistakes = [_sentence(mistake) for mistake in error.errors(include_input=False)]
        raise SettingsError("\n".join(mistakes)) from None
    except UnreadableSettingError as error:
        raise SettingsError(str(error)) from None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        message = f"{path}: {error.strerror}"
        raise SettingsError(message) from None
    except ValueError as error:
        message = f"{path}: not TOML: {error}"
        raise SettingsError(message) from None


def _read_secrets(directory: Path) -> dict[str, str]:
    """Read a mounted directory whose files are named as the variables that they stand for."""
    try:
        files = [path for path in directory.iterdir() if path.name.startswith("RELAY_")]
    except OSError as error:
        message = f"{directory}: {error.strerror}"
        raise SettingsError(message) from None
    secrets = {path.name.lower(): _read_secret(path) for path in files}
    return {name: secret for name, secret in secrets.items() if secret}


def _read_secret(path: Path) -> str:
    """Read a secret from a mounted file; the newline that editors append is not part of it."""
    try:
        return path.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8'}"
        raise SettingsError(message) from None


def _sentence(mistake: ErrorDetails) -> str:
    """Name a mistake by both of its names: `kafka.partitions (RELAY_KAFKA__PARTITIONS): …`."""
    path = [str(part) for part in mistake["loc"] if part != "[key]"]
    variable = "RELAY_" + "__".join(path).upper()
    message = mistake["msg"].removeprefix("Value error, ")
    if mistake["type"] == "extra_forbidden":
        message = "there is no such setting"
    elif mistake["type"] == "missing":
        message = "is required"
    return f"{'.'.join(path)} ({variable}): {message}"

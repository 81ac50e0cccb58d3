"""What a setting's text may be: times, sizes, hosts, ports and URLs, read once into typed values.

Pure. A mistake is a ValueError with a sentence that never repeats the text: it may be a secret.
"""

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, SecretStr

#: Of every section: no other names, and no value in a message.
#: The kind of a mistake that lies in several settings of a section; any of them would mend it.
MISFIT = "section"
SECTION = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZES = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
#: Digits that a double and a 64-bit integer can hold; more is a mistake, not a number.
_NUMBER = r"([0-9]{1,15}(?:\.[0-9]{1,15})?|\.[0-9]{1,15})"
_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_LONGEST_HOST = 253
_PLACE = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([0-9]{1,5}))?")
_HIGHEST_PORT = 65535
#: In a URL these begin another part of it.
_PARTING = re.compile(r"[#?\[\]@/\\\s]")
_DAY = 86400
_FORMS = (
    "must be redis://host:port/database, rediss://host:port/database, "
    "redis+sentinel://host:port/service or redis+cluster://host:port"
)

KAFKA_PORT, STORE_PORT, SENTINEL_PORT = 9092, 6379, 26379


def seconds(value: object) -> object:
    """Accept `24h`, `1.5s`, `200ms` and plain numbers of seconds."""
    if isinstance(value, str) and (match := re.fullmatch(_NUMBER + r"\s*(ms|s|m|h|d)", value)):
        return float(match[1]) * _UNITS[match[2]]
    return value


def _names(value: object) -> object:
    """Accept names with commas between them, as a variable has them, and a list in JSON."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError):
            return json.loads(value)
    if isinstance(value, str):
        return tuple(name.strip() for name in value.split(",")) if value.strip() else ()
    return value


def size(value: object) -> object:
    """Accept `8GiB`, `512 MiB` and plain numbers of bytes."""
    if isinstance(value, str) and (match := re.fullmatch(_NUMBER + r"\s*([A-Za-z]*)", value)):
        factor = _SIZES.get(match[2].upper())
        return value if factor is None else int(float(match[1]) * factor)
    return value


#: Reads a time. It stands behind the limits of a setting, or a schema would not show them.
TIME = BeforeValidator(seconds)
#: How long something goes on; zero is not at all.
Seconds = Annotated[float, Field(ge=0, le=_DAY, allow_inf_nan=False), TIME]
#: When to give up; at zero nothing would ever be done.
Limit = Annotated[float, Field(ge=0.01, le=_DAY, allow_inf_nan=False), TIME]
#: Names in a list.
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
#: What SQLite and Kafka can count.
Bytes = Annotated[int, Field(gt=0, lt=2**63), BeforeValidator(size)]
Count = Annotated[int, Field(gt=0, lt=2**31)]
#: A port to listen on; 0 is any free one.
Port = Annotated[int, Field(ge=0, le=_HIGHEST_PORT)]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server is."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class StoreKind(StrEnum):
    """How the claims store is reached."""

    SERVER = ""
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreUrl:
    """What the claims' URL says."""

    tls: bool
    kind: StoreKind
    hosts: tuple[Endpoint, ...]
    user: str | None
    password: SecretStr | None
    #: The name by which sentinels know the server.
    service: str
    database: int


def host(text: str) -> str:
    """Read one host: a name or an address, without a port."""
    if _is_host(text):
        return text
    raise ValueError("must be one host, without a port: as localhost, 10.0.0.1 or ::1")


def bound(host: str) -> str | None:
    """Give what to listen on: by `::` all that there is of both families, by a socket for each."""
    return None if host == "::" else host


def _is_host(text: str) -> bool:
    try:
        return bool(ip_address(text))
    except ValueError:
        labels = text.removesuffix(".").split(".")
        named = len(text) <= _LONGEST_HOST and all(map(_LABEL.fullmatch, labels))
        # What ends in a number is an address, and this one is none.
        return named and not labels[-1].isdecimal()


def endpoints(text: str, default_port: int) -> tuple[Endpoint, ...]:
    """Read `host:port,host:port`; an IPv6 address stands in brackets."""
    return tuple(_endpoint(place.strip(), default_port) for place in text.split(","))


def endpoint(text: str, default_port: int) -> Endpoint:
    """Read one `host:port`."""
    if "," in text:
        raise ValueError("must name one host, not several")
    return _endpoint(text, default_port)


def _endpoint(text: str, default_port: int) -> Endpoint:
    match = _PLACE.fullmatch(text)
    name = match[1].strip("[]") if match else ""
    if match is None or not _is_host(name) or ("[" in text) != (":" in name):
        raise ValueError("must name each host as host:port, an IPv6 address as [::1]:port")
    port = int(match[2]) if match[2] else default_port
    if not 1 <= port <= _HIGHEST_PORT:
        raise ValueError("has a port that is not between 1 and 65535")
    return Endpoint(name, port)


def brokers(text: str) -> str:
    """Check Kafka's bootstrap servers."""
    endpoints(text, KAFKA_PORT)
    return ",".join(place.strip() for place in text.split(","))


def feishu_url(text: str) -> str:
    """Check the root of an HTTP API: scheme and host, nothing behind."""
    match = re.fullmatch(r"https?://([^@/\s?#]+)/?", text)
    if match is None:
        raise ValueError("must be https://host or https://host:port, with nothing behind")
    endpoint(match[1], 443)
    return text


def collector_url(text: str) -> str:
    """Check the URL of an OpenTelemetry collector; empty is none."""
    match = re.fullmatch(r"https?://(?:[^@/\s]*@)?([^@/\s?#]+)/[^\s]*", text)
    if text and not match:
        raise ValueError("must be a URL, as http://collector:4318/v1/traces")
    if match:
        endpoint(match[1], 443)
    return text


def token_url(text: str) -> str:
    """Check the URL at which tokens are given out; empty is none."""
    match = re.fullmatch(r"https?://([^@/\s?#]+)(?:[/?][^\s#]*)?", text)
    if text and not match:
        raise ValueError("must be a URL, as https://login.example.com/oauth2/token")
    if match:
        endpoint(match[1], 443)
    return text


def store_url(text: str) -> StoreUrl:
    """Read the claims' URL."""
    match = re.fullmatch(r"redis(s?)(?:\+(sentinel|cluster))?://(?:(.*)@)?([^@/\s]+)(/\S*)?", text)
    if match is None:
        raise ValueError(_FORMS)
    kind = StoreKind(match[2] or "")
    user, password = _credentials(match[3])
    service, database = _store_path(kind, match[5] or "")
    port = SENTINEL_PORT if kind is StoreKind.SENTINEL else STORE_PORT
    hosts = endpoints(match[4], port) if kind else (endpoint(match[4], port),)
    return StoreUrl(
        tls=bool(match[1]),
        kind=kind,
        hosts=hosts,
        user=user,
        password=password,
        service=service,
        database=database,
    )


def _credentials(text: str | None) -> tuple[str | None, SecretStr | None]:
    """Read `user:password`, each percent-encoded."""
    if text is None:
        return None, None
    if _PARTING.search(text):
        raise ValueError("write # as %23, ? as %3F, [ as %5B, ] as %5D, / as %2F and @ as %40")
    user, colon, password = text.partition(":")
    if not user and not password:
        raise ValueError("has an @, but neither a user nor a password before it")
    if colon and not password:
        raise ValueError("has an empty password")
    try:
        user, password = (unquote(part, errors="strict") for part in (user, password))
    except UnicodeDecodeError:
        raise ValueError("has a user or password that is not UTF-8") from None
    return user or None, SecretStr(password) if password else None


def _store_path(kind: StoreKind, path: str) -> tuple[str, int]:
    """Read `/service/database`, of which a server has no service and a cluster has neither."""
    pattern = r"/([^/?#]+)(?:/([0-9]{1,5}))?" if kind is StoreKind.SENTINEL else "()/?([0-9]{0,5})"
    match = re.fullmatch(pattern, path)
    if match is None:
        raise ValueError(_FORMS)
    database = int(match[2] or 0)
    if database and kind is StoreKind.CLUSTER:
        raise ValueError("names a database; a cluster has none but 0")
    return match[1], database


def filled(value: SecretStr) -> SecretStr:
    """Refuse a secret of nothing but blanks; an empty one is none."""
    text = value.get_secret_value()
    if text and not text.strip():
        raise ValueError("is blank")
    return value


def file(path: Path) -> Path:
    """Refuse a path that names no file."""
    if path.name in {"", ".."} or "\0" in str(path):
        raise ValueError("must name a file")
    return path


def word(text: str) -> str:
    """Refuse what would be hard to see in a key."""
    if not text.isprintable() or " " in text:
        raise ValueError("must have no blanks and no control characters")
    return text


def holdable(name: str) -> str:
    """Refuse an app's name that a variable would not end where it does."""
    if "__" in name or name.endswith("_"):
        raise ValueError(
            "a name has no __ and no _ at its end: "
            "RELAY_APPS__NAME__ENCRYPT_KEY would not tell where it ends"
        )
    return name


Secret = Annotated[SecretStr, AfterValidator(filled)]
File = Annotated[Path, AfterValidator(file)]
Host = Annotated[str, AfterValidator(host)]
Word = Annotated[str, AfterValidator(word)]
AppName = Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$"), AfterValidator(holdable)]

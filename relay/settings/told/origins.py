"""What is in force, and where each value came from; secrets are hidden, and passwords in URLs."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from relay.settings import Given, Settings, values
from relay.settings.environment import at
from relay.settings.told.schema import fields, reader

#: Stands for a secret.
HIDDEN = "********"
_USER = re.compile(r"(://)(?:([^:@/\s]*)(:))?.*@")
_UNITS = (("d", 86400), ("h", 3600), ("m", 60))
_SIZES = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


class Origin(StrEnum):
    """Where a value came from; each goes over those before it."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    SECRET_FILE = "secret_file"  # noqa: S105 - an origin's name


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One setting, as it can be shown to anybody."""

    name: str
    #: As JSON has it: a time in seconds, a size in bytes.
    value: Any
    origin: Origin
    #: The file or the variable; empty for a default.
    source: str
    #: As a person reads it.
    text: str

    def document(self) -> dict[str, Any]:
        """Give it as JSON has it."""
        found = asdict(self)
        del found["text"]
        return found


def shown(given: Given, settings: Settings | None) -> Iterator[Shown]:
    """Show each setting; without settings, as they could not be read, what was given for it."""
    apps = given.values.get("apps")
    for name, field in fields():
        before, app, rest = name.partition("<name>")
        for one in (sorted(apps) if isinstance(apps, dict) else []) if app else [""]:
            path = f"{before}{one}{rest}".split(".")
            # An app's name has no dot.
            value = plain(_value(settings, given, field, path), url=name == "claims.url")
            origin, source = _origin(given, path)
            yield Shown(
                name=".".join(path),
                value=value,
                origin=origin,
                source=source,
                text=text(value, field),
            )


def _value(settings: Settings | None, given: Given, field: FieldInfo, path: list[str]) -> Any:
    """Give the value in force, a secret in its wrapping."""
    if settings is None:
        value = at(given.values, path)
        secret = isinstance(field.get_default(), SecretStr)
        value = field.get_default() if value is None and not field.is_required() else value
        return SecretStr(str(value)) if secret and not isinstance(value, SecretStr) else value
    value = settings
    for part in path:
        value = getattr(value, part) if isinstance(value, BaseModel) else value[part]
    return value


def _origin(given: Given, path: list[str]) -> tuple[Origin, str]:
    below = at(given.file, path)
    source = given.environment.source(path)
    if source is None:
        return (Origin.DEFAULT, "") if below is None else (Origin.FILE, str(given.path))
    variable, file = source
    if file:
        return Origin.SECRET_FILE, file
    # A table's entries go over those of the file one by one.
    return Origin.ENVIRONMENT, f"{variable} over {given.path}" if isinstance(
        below, dict
    ) else variable


def plain(value: Any, *, url: bool = False) -> Any:
    """Give a value as JSON has it, without what nobody is to see; of a secret URL the rest."""
    if isinstance(value, SecretStr):
        text = value.get_secret_value()
        return _masked(text) if url and _is_store(text) else HIDDEN if text else ""
    if isinstance(value, str):
        return _masked(str(value))
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value if value is None or isinstance(value, int | float) else str(value)


def _is_store(text: str) -> bool:
    try:
        values.store_url(text)
    except ValueError:
        return False
    return True


def _masked(text: str) -> str:
    """Hide the password of a URL; without a user, whatever stands before the host."""
    return _USER.sub(lambda m: f"{m[1]}{m[2] or ''}{m[3] or ''}{HIDDEN}@", text)


def text(found: Any, field: FieldInfo) -> str:
    """Write a value as somebody would in TOML."""
    form = reader(field)
    if isinstance(found, int | float) and not isinstance(found, bool) and form in _WRITTEN:
        return _WRITTEN[form](found)
    return "-" if found is None else json.dumps(found, ensure_ascii=False)


def _time(seconds: float) -> str:
    """Write `24h` for 86400."""
    for unit, length in _UNITS[1:] if seconds < 2 * _UNITS[0][1] else _UNITS:
        if seconds and seconds % length == 0:
            return f'"{seconds / length:g}{unit}"'
    return f'"{seconds:g}s"'


def _size(count: float) -> str:
    for unit, length in _SIZES:
        if count and count % length == 0:
            return f'"{count / length:g} {unit}"'
    return str(count)


_WRITTEN = {values.seconds: _time, values.size: _size}

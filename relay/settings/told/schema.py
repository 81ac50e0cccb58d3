"""The JSON Schema of the TOML file: for editors, and for whoever checks a file before its use.

It is made of the model that reads the file. It asks for nothing: what a file lacks, the environment
may have.
"""

from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo

from relay.settings import Settings, privacy, topics, values
from relay.settings.told.meanings import meanings

Schema = dict[str, Any]

_NUMBER = r"([0-9]{1,15}(\.[0-9]{1,15})?|\.[0-9]{1,15})"
_TIME: Schema = {"type": ["string", "number"], "pattern": rf"^{_NUMBER}\s*(ms|s|m|h|d)?$"}
_SIZE: Schema = {
    "type": ["string", "integer"],
    "pattern": rf"^{_NUMBER}\s*([bB]|[kKmMgGtT][iI][bB])?$",
}
#: Kafka's own names have dots, which in TOML make tables in tables.
_OPEN: Schema = {
    "type": "object",
    "additionalProperties": {"type": ["string", "number", "boolean", "object"]},
}
_SECRET: Schema = {"type": "string", "format": "password", "writeOnly": True}
#: How a value may be written, by what reads it.
_FORMS: dict[Any, Schema] = {
    values.seconds: _TIME,
    values.size: _SIZE,
    topics.config: _OPEN,
}
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
#: Names of fields that an editor can offer.
_NAMES = {"privacy.drop": False, "privacy.hash": True}
_NO_VALUE: tuple[Any, ...] = (None, {}, [])


def schema() -> Schema:
    """Give the schema of the whole file."""
    made = Settings.model_json_schema()
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "relay.toml",
        **_Sections(made.pop("$defs")).section(Settings, made, ""),
    }


def fields(model: type[BaseModel] = Settings, path: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Give each setting by its name in TOML; an operator's own name is `<name>`."""
    for name, field in model.model_fields.items():
        below, table = _model(field)
        if below:
            yield from fields(below, f"{path}{name}.{'<name>.' if table else ''}")
        else:
            yield path + name, field


def reader(field: FieldInfo) -> Any:
    """Give the function that reads a setting's text, if it has one."""
    found = (one.func for one in field.metadata if isinstance(one, BeforeValidator))
    return next(found, None)


def _model(field: FieldInfo) -> tuple[type[BaseModel] | None, bool]:
    """Give the model below a field, if there is one, and whether it stands in a table of them."""
    kind, table = field.annotation, get_origin(field.annotation) is dict
    if table:
        kind = get_args(kind)[1]
    found = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None
    return found, table and found is not None


class _Sections:
    """pydantic's schema, whose parts stand apart, as one that is read from top to bottom."""

    def __init__(self, parts: Schema) -> None:
        self._parts = parts

    def section(self, model: type[BaseModel], made: Schema, path: str) -> Schema:
        """Give the schema of a section."""
        found: Schema = {}
        for name, field in model.model_fields.items():
            below, table = _model(field)
            part = self._resolved(made["properties"][name])
            if below is None:
                found[name] = self._setting(field, part, path + name)
            elif table:
                found[name] = self._table(below, part, path + name)
            else:
                found[name] = self.section(below, part, f"{path}{name}.")
        about = (model.__doc__ or "").partition("\n\n")[0]
        return {
            "description": " ".join(about.split()),
            "type": "object",
            "additionalProperties": False,
            "properties": found,
        }

    def _table(self, model: type[BaseModel], part: Schema, path: str) -> Schema:
        (pattern, inner), *_ = part["patternProperties"].items()
        one = self.section(model, self._resolved(inner), f"{path}.<name>.")
        return {
            "description": one["description"],
            "type": "object",
            "propertyNames": {"pattern": pattern},
            "additionalProperties": one,
        }

    def _setting(self, field: FieldInfo, part: Schema, path: str) -> Schema:
        found: Schema = {"description": meanings().get(path, ""), **self._form(field, part)}
        if path in _NAMES:
            found["items"] = {"enum": privacy.known(hashed=_NAMES[path])}
        if part.get("default") not in _NO_VALUE:
            found["default"] = part["default"]
        return found

    def _form(self, field: FieldInfo, part: Schema) -> Schema:
        """Say how a value may be written."""
        if "anyOf" in part:
            part = next(self._resolved(one) for one in part["anyOf"] if one.get("type") != "null")
        if form := _FORMS.get(reader(field)):
            return form | {name: part[name] for name in _LIMITS if name in part}
        if part.get("writeOnly"):
            return _SECRET
        kept = ("type", "enum", "pattern", "items", "additionalProperties", *_LIMITS)
        return {name: part[name] for name in kept if name in part}

    def _resolved(self, part: Schema) -> Schema:
        """Put what is referred to in the place of its reference."""
        if "$ref" in part:
            name = part["$ref"].rpartition("/")[2]
            return {**self._parts[name], **{k: v for k, v in part.items() if k != "$ref"}}
        return part

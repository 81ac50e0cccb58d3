"""The variables of the environment as a tree of settings; secrets also out of files.

Every mistake becomes a line of `findings`, by the variable's name; what a file holds never does.
"""

import json
import re
from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, TypeAlias, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

PREFIX = "relay_"
#: What a variable ends in whose value may stand in a file: `<NAME>_FILE`.
SECRETS = (
    "__app_secret",
    "__encrypt_key",
    "__previous_encrypt_key",
    "__verification_token",
    "__previous_verification_token",
    "__sasl_password",
    "__oauth_client_secret",
    "__sentinel_password",
    "__helpdesk_token",
    "_console__password",
    "_claims__url",
    "_privacy__salt",
)
#: Those that keep something out: a file with nothing in it would open a door.
_GUARDS = ("__encrypt_key", "__verification_token", "_claims__url", "_privacy__salt")
#: Where no text at all is a value of its own, not a variable that was passed on unset.
_MAY_BE_EMPTY = ("relay_kafka__topic_prefix", "relay_claims__key_prefix")
#: Stands for a secret that could not be read, so that only this is reported.
_UNREAD = "redis://a-secret-that-could-not-be-read"
#: How much of a name must be alike to be taken for another.
_ALIKE = 0.6
#: A name that is the operator's.
_ANY = "<name>"
#: What Python makes of bytes in the environment that are not UTF-8.
_SURROGATE = re.compile("[\ud800-\udfff]")

Tree: TypeAlias = dict[str, Any]
Place: TypeAlias = list[str]


class Environment:
    """What the variables set, and what is wrong with them."""

    def __init__(self, variables: Mapping[str, str], model: type[BaseModel]) -> None:
        self.findings: list[str] = []
        #: Setting by setting, as a file has them.
        self.values: Tree = {}
        self._known = _tree(model)
        #: Variables that are taken, and the files that stand for some.
        self._taken: set[str] = set()
        self._files: dict[str, str] = {}
        #: Settings whose variable is there, but empty.
        self._emptied: list[Place] = []
        ours = {
            name.lower(): value
            for name, value in variables.items()
            if name.lower().startswith(PREFIX)
        }
        self.config = ours.get("relay_config", "")
        if directory := ours.get("relay_secrets_dir"):
            ours |= self._read_directory(Path(directory))
        self._take(self._with_files(ours))

    def over(self, file: Tree) -> Tree:
        """Lay the variables over the file's values."""
        for path in self._emptied:
            leaf = at(self._known, path)
            off = isinstance(leaf, FieldInfo) and leaf.default in ("", SecretStr(""))
            if off and at(file, path):
                self.findings.append(
                    f"{named(path)}: is empty, but the file has a value: "
                    "unset the variable, or empty the value there"
                )
        return _merged(file, self.values)

    def source(self, path: Place) -> tuple[str, str] | None:
        """Name the variable that sets a place, alone or in a JSON object, and its file, if any."""
        for length in range(len(path), 0, -1):
            name = PREFIX + "__".join(path[:length])
            if name in self._taken and at(self.values, path) is not None:
                return name.upper(), self._files.get(name, "")
        return None

    def unknown(self, path: Place) -> str:
        """Say that there is no such setting, and which one may have been meant."""
        known = _settings(self._known, path) if len(path) > 1 else ([name] for name in self._known)
        names = [variable(place) for place in known]
        if path[-1].endswith("_file"):
            names += [f"{name}_FILE" for name in names if name.lower().endswith(SECRETS)]
        nearest = max(names, key=lambda name: _likeness(name, variable(path)))
        in_section = isinstance(at(self._known, path[:-1]), dict)
        if in_section and _likeness(nearest.rsplit("__")[-1], path[-1].upper()) < _ALIKE:
            return "there is no such setting"
        return f"there is no such setting; the nearest is {nearest}"

    def _take(self, variables: Mapping[str, str]) -> None:
        """Sort the variables into the tree; a name without `__` may be Kubernetes' own making."""
        paths = {name: name.removeprefix(PREFIX).split("__") for name in variables}
        # What is set as a whole, as JSON, goes below what is set one by one.
        for name, path in sorted(paths.items(), key=lambda item: len(item[1])):
            known = at(self._known, path)
            if known is None:
                if len(path) > 1:
                    self.findings.append(f"{named(path)}: {self.unknown(path)}")
            elif _SURROGATE.search(variables[name]):
                self.findings.append(f"{named(path)}: is not UTF-8")
                if name.endswith(SECRETS):
                    self.values = _merged(self.values, _nested(path, _UNREAD))
            elif not variables[name] and name not in _MAY_BE_EMPTY:
                self._emptied.append(path)
            elif isinstance(known, dict):
                self._taken.add(name)
                self._set_whole(path, variables[name])
            else:
                self._taken.add(name)
                self.values = _merged(self.values, _nested(path, variables[name]))

    def _set_whole(self, path: Place, text: str) -> None:
        """Set a section or a table, which is written as JSON."""
        try:
            value = json.loads(text, object_pairs_hook=_each_once)
        except _TwiceError as error:
            self.findings.append(f"{named(path)}: {error}")
            return
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            self.values = _merged(self.values, _nested(path, value))
        else:
            self.findings.append(f'{named(path)}: "{path[-1]}" must be a JSON object')

    def _with_files(self, variables: dict[str, str]) -> dict[str, str]:
        """Put what the named files hold where their variables point to."""
        for name in list(variables):
            secret, path = name.removesuffix("_file"), variables[name]
            if name == secret or not secret.endswith(SECRETS):
                continue
            del variables[name]
            if path:
                self._files[secret] = path
                variables[secret] = self._read(Path(path)) or self._empty(path, name)
        return variables

    def _read_directory(self, directory: Path) -> dict[str, str]:
        """Read a mounted directory whose files are named as the variables that they stand for."""
        try:
            files = sorted(path for path in directory.iterdir() if path.name.startswith("RELAY_"))
        except (OSError, ValueError) as error:
            self.findings.append(f"{directory}: {_reason(error)}")
            return {}
        found = {}
        for path in files:
            name = path.name.lower()
            place = name.removeprefix(PREFIX).split("__")
            if at(self._known, place) is None:
                # Nobody but the operator puts files here: each is meant.
                self.findings.append(f"{path}: {self.unknown(place)}")
            elif text := self._read(path):
                self._files[name] = str(path)
                found[name] = text
            elif name.endswith(_GUARDS):
                found[name] = self._empty(str(path), name)
        return found

    def _read(self, path: Path) -> str:
        """Read a secret from a mounted file; the newline that editors append is not part of it."""
        try:
            return path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, ValueError) as error:
            self.findings.append(f"{path}: {_reason(error)}")
            return _UNREAD

    def _empty(self, path: str, name: str) -> str:
        self.findings.append(f"{path}: is empty, but {name.upper()} asks for a secret")
        return _UNREAD


class _TwiceError(Exception):
    """A JSON object has a name twice, and a reader would take the last."""


def _each_once(pairs: list[tuple[str, Any]]) -> Tree:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise _TwiceError(f'"{name}" stands in it twice')
    return dict(pairs)


def named(path: Place) -> str:
    """Name a setting by both of its names: `kafka.partitions (RELAY_KAFKA__PARTITIONS)`."""
    return f"{'.'.join(path)} ({variable(path)})"


def variable(path: Place) -> str:
    """Give the variable of a setting."""
    return PREFIX.upper() + "__".join(path).upper()


def _tree(model: type[BaseModel]) -> Tree:
    """Give what can be set, by name: a tree for a section or a table, a field for a setting."""
    found: Tree = {}
    for name, field in model.model_fields.items():
        inner, table = field.annotation, get_origin(field.annotation) is dict
        if table:
            inner = get_args(inner)[1]
        below = _tree(inner) if isinstance(inner, type) and issubclass(inner, BaseModel) else field
        found[name] = {_ANY: below} if table else below
    return found


def at(tree: Any, path: Place) -> Any:
    """Give what stands at a path, or None."""
    for part in path:
        tree = tree.get(part, tree.get(_ANY)) if isinstance(tree, dict) else None
    return tree


def _settings(tree: Tree, wanted: Place) -> Iterator[Place]:
    """Give the path of each setting; a name that is the operator's is the one of `wanted`."""
    for name, below in tree.items():
        part = wanted[0] if name == _ANY else name
        if isinstance(below, FieldInfo):
            yield [] if name == _ANY else [part]
        else:
            yield from ([part, *rest] for rest in _settings(below, wanted[1:] or ["default"]))


def _nested(path: Place, value: Any) -> Tree:
    for part in reversed(path):
        value = {part: value}
    return dict(value)


def _merged(below: Tree, above: Tree) -> Tree:
    """Lay one tree over another, value by value."""
    both = {name: below[name] for name in below.keys() & above.keys()}
    tables = {
        name: _merged(value, above[name])
        for name, value in both.items()
        if isinstance(value, dict) and isinstance(above[name], dict)
    }
    return below | above | tables


def _likeness(one: str, other: str) -> float:
    return SequenceMatcher(None, one, other).ratio()


def _reason(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "not UTF-8"
    return getattr(error, "strerror", None) or str(error)

"""A first relay.toml: what was answered, and every other setting as a comment with its meaning."""

import json
import textwrap
from collections.abc import Iterator, Mapping

from pydantic.fields import FieldInfo

from relay.settings.told.meanings import meanings
from relay.settings.told.origins import plain, text
from relay.settings.told.schema import fields, schema

_WIDTH = 100
_INTRO = (
    "Settings of relay: docs/configuration.md. A line with # and no blank behind it is a setting as"
    " it is by default: take the # away to change it. Each can be given in the environment, too,"
    " which goes over this file: kafka.timeout is RELAY_KAFKA__TIMEOUT. Secrets are better kept in"
    " files: the variable RELAY_APPS__DEFAULT__ENCRYPT_KEY_FILE names one. relay config show tells"
    " what is in force, relay check whether it will do."
)
#: What stands where there is no default.
_EXAMPLES = {"kafka.bootstrap_servers": '"kafka-1:9092"', "log.format": '"json"'}
_FILE = '"/etc/relay/FILE"'


def template(answers: Mapping[str, str | bool], app: str = "default") -> str:
    """Give the text; `answers` are values by name, as `apps.default.encrypt_key`."""
    lines = list(_comment(_INTRO))
    abouts, section = schema()["properties"], ""
    order = list(meanings())
    # As in the paper; but what stands in no table comes first in TOML.
    for name, field in sorted(fields(), key=lambda one: ("." in one[0], order.index(one[0]))):
        table, _, key = name.replace("<name>", app).rpartition(".")
        if table != section:
            about = abouts[name.partition(".")[0]]["description"]
            lines += ["", *_comment(about), f"[{table}]"]
            section = table
        else:
            lines.append("")
        lines += _comment(meanings()[name])
        lines.append(_setting(key, answers.get(f"{table}.{key}"), name, field))
    return "\n".join(lines) + "\n"


def _comment(words: str) -> Iterator[str]:
    yield from textwrap.wrap(
        words,
        _WIDTH,
        initial_indent="# ",
        subsequent_indent="# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _setting(key: str, answer: str | bool | None, name: str, field: FieldInfo) -> str:  # noqa: FBT001
    if answer is not None:
        return f"{key} = {json.dumps(answer, ensure_ascii=False)}"
    if name in _EXAMPLES:
        return f"#{key} = {_EXAMPLES[name]}"
    found = plain(field.get_default())
    return f"#{key} = {_FILE if found is None else text(found, field)}"

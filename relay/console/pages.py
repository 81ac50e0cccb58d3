"""The pages: templates in, HTML out; whatever is put into one comes out as text."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from relay.console import words
from relay.contract.printable import printable


class Pages:
    """Renders pages, and has the style sheet."""

    def __init__(self) -> None:
        self._templates = Environment(
            loader=PackageLoader("relay.console"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_shown,
        )
        self._templates.filters |= {
            "moment": words.moment,
            "machine": words.machine,
            "clock": words.clock,
            "ago": words.ago,
            "span": words.span,
            "size": words.size,
            "number": words.number,
            "standing": words.standing,
            "exact": words.exact,
            "lines": _lines,
        }
        self.style = resources.files("relay.console").joinpath("style.css").read_bytes()

    def render(self, name: str, values: Mapping[str, Any]) -> str:
        """Fill a template."""
        return self._templates.get_template(f"{name}.html").render(values)


def _lines(text: str) -> Markup:
    """Put a text of several lines into a page, each of them as `_shown` does."""
    return Markup("\n").join(printable(line) for line in text.split("\n"))


def _shown(value: object) -> object:
    """Take out what would turn the direction of writing, or hide a part of a line."""
    return printable(value) if type(value) is str else value

"""The pages: templates in, HTML out; whatever is put into one comes out as text."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from relay.console import words
from relay.contract.printable import printable


class Pages:
    """Renders pages, and has the style sheet."""

    def __init__(self) -> None:
        self._templates = Environment(
            loader=PackageLoader("relay.console"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_shown,
        )
        self._templates.filters |= {
            "moment": words.moment,
            "machine": words.machine,
            "ago": words.ago,
            "span": words.span,
            "size": words.size,
            "number": words.number,
            "standing": words.standing,
        }
        self.style = resources.files("relay.console").joinpath("style.css").read_bytes()

    def render(self, name: str, values: Mapping[str, Any]) -> str:
        """Fill a template."""
        return self._templates.get_template(f"{name}.html").render(values)


def _shown(value: object) -> object:
    """Take out what would turn the direction of writing, or hide a part of a line."""
    return printable(value) if type(value) is str else value

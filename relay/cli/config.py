"""`relay config`: what can be set, and what is set."""

from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli.events import ConfigOption
from relay.cli.say import document, say

if TYPE_CHECKING:
    from relay.settings.told.origins import Shown

app = typer.Typer(help="What can be set, and what is set.", no_args_is_help=True)


@app.callback()
def config() -> None:
    """What can be set, and what is set."""


@app.command()
def schema() -> None:
    """Print the JSON Schema of the TOML file: editors complete names and mark mistakes by it."""
    from relay.settings.told import schema as made

    document(made.schema(), indent=2)


@app.command()
def show(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
    config: ConfigOption = None,
) -> None:
    """Show every setting that is in force, and where it came from; no secret, no password."""
    from relay import settings
    from relay.errors import SettingsError
    from relay.settings.told.origins import shown

    given, wrong, found = settings.given(config), None, None
    try:
        found = settings.checked(given)
    except SettingsError as error:
        wrong = error
    lines = list(shown(given, found))
    width = max(len(one.name) for one in lines)
    for one in lines:
        if as_json:
            document(one.document())
        else:
            say(f"{one.name:{width}}  {one.text:24}  {_from(one)}")
    if wrong:
        raise wrong


def _from(one: "Shown") -> str:
    return " ".join(filter(None, (one.origin.replace("_", " "), one.source)))

"""`relay config` and `relay init`: what can be set, what is set, and a first file."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli.events.options import ConfigOption
from relay.cli.say import ask, asks, document, note, say
from relay.errors import ConfigExistsError

if TYPE_CHECKING:
    from relay.settings.told.origins import Shown

app = typer.Typer(help="What can be set, and what is set.", no_args_is_help=True)


@app.callback()
def config() -> None:
    """What can be set, and what is set."""


def init(
    file: Annotated[Path, typer.Argument(help="The file to write; there must be none yet.")] = Path(
        "relay.toml"
    ),
) -> None:
    """Write a first relay.toml with every setting explained; on a terminal ask for what is needed.

    Without a terminal nothing is asked. Nothing is overwritten, and only its owner can read it.
    """
    from relay.settings.told.template import template

    if file.exists():
        raise ConfigExistsError(f"{file}: is there already, and is not overwritten")
    name, answers = _answers() if asks() else ("default", {})
    found = {f"apps.{name}.{key}": value for key, value in answers.items() if key != "kafka"}
    if "kafka" in answers:
        found["kafka.bootstrap_servers"] = answers["kafka"]
    try:
        written = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigExistsError(f"{file}: is there already, and is not overwritten") from None
    with os.fdopen(written, "w", encoding="utf-8") as out:
        out.write(template(found, name))
    say(f"{file}: written, for its owner alone to read")
    if answers:
        _try(file)
    else:
        say("Next: give apps.default a key or a token, and kafka.bootstrap_servers, in the file or")
        say(f"in the environment; then: relay check --config {file}")


def _answers() -> tuple[str, dict[str, str | bool]]:
    """Ask what a relay cannot do without."""
    from relay.settings.values import brokers

    name = ask("Name of the Feishu app, your own", _app_name, default="default", secret=False)
    found: dict[str, str | bool] = {}
    note("From the app's page in Feishu's developer console, under its events:")
    for key, words in (
        ("encrypt_key", "Encrypt key"),
        ("verification_token", "Verification token"),
    ):
        if text := ask(f"{words} (Enter: none)", _text, default="", secret=True):
            found[key] = text
    if not found:
        note("Without both, relay fetches the events itself, over a long connection:")
        found["app_id"] = ask("App ID, cli_...", _some, default=None, secret=False)
        found["app_secret"] = ask("App secret", _some, default=None, secret=True)
        found["long_connection"] = True
    found["kafka"] = ask("Kafka, as host:port", brokers, default="localhost:9092", secret=False)
    return name, found


def _app_name(text: str) -> None:
    from relay.settings.values import holdable

    if not re.fullmatch("[a-z0-9_-]{1,64}", text):
        raise ValueError("lower-case letters, digits, - and _ only")
    holdable(text)


def _text(text: str) -> None:
    if not text.isprintable():
        raise ValueError("has a character that no key has")


def _some(text: str) -> None:
    _text(text)
    if not text:
        raise ValueError("is needed")


def _try(file: Path) -> None:
    """Look whether what was answered will do."""
    import uvloop

    from relay import settings
    from relay.cli.check import findings, settled, show
    from relay.observe import logs

    logs.configure(level="error")
    loaded = settings.load(file)
    passed = uvloop.run(settled(lambda: findings(loaded), 0, show))
    say(f"Next: {'relay serve' if passed else 'relay check'} --config {file}")


@app.command(epilog="Example: relay config schema > relay.schema.json")
def schema() -> None:
    """Print the JSON Schema of the TOML file: editors complete names and mark mistakes by it."""
    from relay.settings.told import schema as made

    document(made.schema(), indent=2)


@app.command(epilog="Example: relay config show --config relay.toml")
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

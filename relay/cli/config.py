"""`relay config`: what can be set, and what is set."""

import typer

from relay.cli.say import document

app = typer.Typer(help="What can be set, and what is set.", no_args_is_help=True)


@app.callback()
def config() -> None:
    """What can be set, and what is set."""


@app.command()
def schema() -> None:
    """Print the JSON Schema of the TOML file: editors complete names and mark mistakes by it."""
    from relay.settings.told import schema as made

    document(made.schema(), indent=2)

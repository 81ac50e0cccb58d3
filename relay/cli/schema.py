"""`relay schema`: the contract for machines, on standard output or in a schema registry."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer
from typer.core import TyperGroup

from relay.cli.say import document, event_types, note, say, unknown

if TYPE_CHECKING:
    from relay.contract.normalize import Router


#: Commands, which a word that is no event type may have been meant for.
COMMANDS = ("print", "register")


class _TypeFirst(TyperGroup):
    """`relay schema TYPE` is `relay schema print TYPE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take what is no command's name for an event type, or an option of `print`."""
        if not args or args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["print", *args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


class Language(StrEnum):
    """Whose schema is printed."""

    JSON = "json"
    CONNECT = "connect"
    FLINK = "flink"
    KSQL = "ksql"
    SQL = "sql"


app = typer.Typer(help="The contract for machines.", cls=_TypeFirst)
PrefixOption = Annotated[str, typer.Option(help="The topics' prefix.")]
ConfigOption = Annotated[
    Path | None,
    typer.Option(help="TOML file: the topics, and what is kept from consumers, by its settings."),
]


@app.callback()
def schema() -> None:
    """The contract for machines: JSON Schemas, AsyncAPI, and schemas for those who consume it."""


@app.command("print", epilog="Example: relay schema print helpdesk.ticket.created_v1 --as flink")
def show(
    event_type: Annotated[
        str,
        typer.Argument(
            help="An event type, or `other`; without one: the AsyncAPI document.",
            autocompletion=event_types,
        ),
    ] = "",
    prefix: PrefixOption = "feishu.",
    language: Annotated[
        Language,
        typer.Option(
            "--as", help="JSON Schema, or for Kafka Connect, Flink SQL, ksqlDB, PostgreSQL."
        ),
    ] = Language.JSON,
    config: ConfigOption = None,
) -> None:
    """Print the schema of an event type's records, or the AsyncAPI document of the topics.

    `relay schema TYPE` is the same.
    """
    from relay.contract import schemas
    from relay.contract.kit import sql

    router = _router(prefix, config)
    known = schemas.schemas(router)
    if event_type and event_type not in known:
        raise typer.BadParameter(unknown(event_type, [*known, *COMMANDS]))
    if language is Language.JSON:
        document(known[event_type] if event_type else schemas.asyncapi(router), indent=2)
    elif not event_type:
        raise typer.BadParameter(f"--as {language} is for one event type: {', '.join(known)}")
    elif language is Language.CONNECT:
        _connect(event_type, router)
    else:
        for line in sql.PRINTERS[language](event_type, router).splitlines():
            say(line)


def _router(prefix: str, config: Path | None) -> "Router":
    """Give the topics and the rules that settings name; without a file none are read."""
    from relay import settings
    from relay.contract.normalize import Router
    from relay.egress import routing

    if config is None:
        return Router(prefix, {})
    return routing.router(settings.load(config))


def _connect(event_type: str, router: "Router") -> None:
    from relay.contract.kit import connect, sql
    from relay.settings.topics import OTHER

    if event_type == OTHER:
        raise typer.BadParameter(
            "the data of `other` has any form, and Kafka Connect no type for that: "
            "read it with value.converter.schemas.enable=false"
        )
    if others := sql.sharing(event_type, router):
        note(
            f"{router.topic(event_type)} also has {', '.join(others)}, and Kafka Connect has one"
            " schema for a topic: give each type a topic of its own (kafka.topics)"
        )
    document(connect.schema(event_type, router))


@app.command(epilog="Example: relay schema register --registry http://registry:8081")
def register(
    registry: Annotated[str, typer.Option(help="Address of a Confluent-compatible registry.")],
    user: Annotated[
        str, typer.Option(envvar="RELAY_REGISTRY_USER", help="Empty: no credentials are sent.")
    ] = "",
    password: Annotated[
        str, typer.Option(envvar="RELAY_REGISTRY_PASSWORD", help="Better in the variable.")
    ] = "",
    prefix: PrefixOption = "feishu.",
    config: ConfigOption = None,
) -> None:
    """Put the JSON Schemas of all values into a schema registry, if it finds all compatible."""
    import uvloop

    uvloop.run(_register(_address(registry), user, password, _router(prefix, config)))


def _address(text: str) -> str:
    """Take an address that can be shown: whoever sees it must not see a password."""
    try:
        parts = urlsplit(text)
        known = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise typer.BadParameter("--registry is http://HOST:PORT or https://HOST:PORT")
    if "@" in parts.netloc:
        raise typer.BadParameter("--registry has no credentials: name them by --user")
    return text


async def _register(url: str, user: str, password: str, router: "Router") -> None:
    """Check all before the first is registered: a registry has no transactions."""
    import aiohttp

    from relay.cli.registry import Registry
    from relay.contract import schemas

    subjects = {
        f"{router.topic(name)}-{name}": one for name, one in schemas.schemas(router).items()
    }
    headers = {}
    if user:
        headers["Authorization"] = aiohttp.encode_basic_auth(user, password, "utf-8")
    async with aiohttp.ClientSession(headers=headers) as session:
        api = Registry(session, url)
        for subject, one in subjects.items():
            await api.check(subject, one)
        for subject, one in subjects.items():
            say(f"{subject}: id {await api.register(subject, one)}")

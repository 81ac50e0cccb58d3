"""The commands of `relay events`: list, show, replay, discard and erase; `moves` has the others."""

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from relay.cli.events import moves, shown
from relay.cli.events.fleet import Fleet, PeersOption
from relay.cli.events.options import (
    MOST,
    AppOption,
    ConfigOption,
    JournalOption,
    JsonOption,
    narrowed,
    path_of,
    router_of,
    searching,
)
from relay.cli.say import MISUSED, asks, document, named, note, printed, say, seen
from relay.events import Outcome, StoredEvent, withheld
from relay.journal import search
from relay.journal import view as journalview
from relay.journal.rows.lives import Life
from relay.journal.search import Filter, Page
from relay.journal.view import Done, JournalView

app = typer.Typer(
    help="Look into the journal: what came in, what became of it; also while a relay runs.",
    no_args_is_help=True,
)
app.command(epilog=moves.EXPORT)(moves.export)
app.command(epilog=moves.BACKUP)(moves.backup)
app.command("import", epilog=moves.IMPORT)(moves.import_events)

EventId = Annotated[str, typer.Argument(metavar="ID", callback=named, help="The event id.")]
EventIds = Annotated[list[str], typer.Argument(metavar="ID...", callback=named, help="Event ids.")]
MaybeIds = Annotated[
    list[str] | None,
    typer.Argument(metavar="ID", callback=named, help="Event ids; or what narrows them."),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask, after the count.")]

NOTHING = "The journal has no such events."


@app.command("list", epilog="Example: relay events list --ticket 6626871355780366331 --since 2h")
@narrowed
def list_events(
    limit: Annotated[int, typer.Option(help="How many, the latest first.", min=1, max=MOST)] = 50,
    before: Annotated[
        int | None, typer.Option(help="Go on from here, as the page before says.", min=1, max=MOST)
    ] = None,
    as_json: JsonOption = False,
    peers: PeersOption = None,
    journal: JournalOption = None,
    config: ConfigOption = None,
    *,
    wanted: Filter,
) -> None:
    """List events, the latest first: of a ticket, a type, a time, an ending."""
    from relay.contract.rules.values import rfc3339

    if peers is not None:
        _list_of_all(peers, config, wanted, limit, as_json=as_json)
        return
    with search.opened(path_of(journal, config), router_of(journal, config).ids) as view:
        page = _listed(view, wanted, limit, before)
    if as_json:
        for life in page.lives:
            document(asdict(life))
    elif page.lives:
        width = shutil.get_terminal_size().columns if seen() else None
        for line in shown.lines(page.lives, width):
            say(line)
    elif page.before is None:
        say(NOTHING)
    if page.before is not None and page.looked_to is not None:
        looked_to = rfc3339(page.looked_to)[:19].replace("T", " ")
        why = "there may be more" if len(page.lives) >= limit else f"looked back to {looked_to}"
        note(f"{why}: --before {page.before} goes on from there")


def _list_of_all(
    peers: str, config: Path | None, wanted: Filter, limit: int, *, as_json: bool
) -> None:
    """List the events of all replicas; exit 1 where one does not answer."""
    fleet = Fleet(peers, config)
    rows = fleet.found(wanted, limit)
    if as_json:
        for found, life in rows:
            document(asdict(life) | {"replica": found.name})
    elif rows:
        width = shutil.get_terminal_size().columns if seen() else None
        for line in shown.lines([life for _, life in rows], width):
            say(line)
    else:
        say("No journal of those that answer has such events.")
    if not fleet.whole:
        raise typer.Exit(1)


def _listed(view: search.Search, wanted: Filter, limit: int, before: int | None) -> Page:
    """Give what a second finds for a person; for a program all up to the limit."""
    page = view.page(wanted, before, limit)
    if seen():
        return page
    lives = list(page.lives)
    while page.before is not None and len(lives) < limit:
        page = view.page(wanted, page.before, limit - len(lives))
        lives += page.lives
    return Page(lives=tuple(lives), before=page.before, looked_to=page.looked_to)


@app.command(epilog="Example: relay events show a2afbfd2b19a8e301a0edd21038720a1 --record")
def show(
    event_id: EventId,
    record: Annotated[
        bool, typer.Option("--record", help="Also the Kafka record that it becomes.")
    ] = False,
    app_name: AppOption = None,
    as_json: JsonOption = False,
    peers: PeersOption = None,
    journal: JournalOption = None,
    config: ConfigOption = None,
) -> None:
    """Show an event's life, and its body as Feishu sent it (customers' text included)."""
    if peers is not None:
        _show_of_all(Fleet(peers, config), event_id, app_name, record=record, as_json=as_json)
        return
    with search.opened(path_of(journal, config), router_of(journal, config).ids) as view:
        life, body = view.event(event_id, app_name)
        replica = view.id
    contents: dict[str, object] = {"body": _body(body)}
    if record and body:
        stored = journalview.as_stored(life, body)
        kept = withheld(life.event_type)
        contents["record"] = None if kept else _record(stored, journal, config)
    if as_json:
        document(_told(life) | {"replica": replica} | contents, indent=2)
        return
    for line in shown.life_lines(life, replica):
        say(line)
    for name, value in contents.items():
        say("")
        say(f"{name}:")
        document(value, indent=2)


def _show_of_all(
    fleet: Fleet, event_id: str, app_name: str | None, *, record: bool, as_json: bool
) -> None:
    """Show it of each replica that has it; exit 1 where one does not answer, or none has it."""
    found = fleet.shown(event_id, app_name)
    for one in found:
        contents: dict[str, object] = {"body": one.body}
        if record:
            contents["record"] = one.record and asdict(one.record) | {"value": one.value}
        if as_json:
            document(_told(one.life) | {"replica": one.name} | contents, indent=2)
            continue
        for line in shown.life_lines(one.life, one.name):
            say(line)
        for name, value in contents.items():
            say("")
            say(f"{name}:")
            document(value, indent=2)
    if not found:
        note("No journal of those that answer has this event.")
    if not (found and fleet.whole):
        raise typer.Exit(1)


def _told(life: Life) -> dict[str, object]:
    """Give a life with times that can be read."""
    from relay.contract.rules.values import rfc3339

    told: dict[str, Any] = asdict(life)
    for name in ("received_at", "stored_at", "claimed_at", "settled_at"):
        told[name] = None if told[name] is None else rfc3339(told[name])
    return told


@app.command(epilog="Example: relay events replay --reason internal_error --since 2h")
@narrowed
def replay(
    event_ids: MaybeIds = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
    peers: PeersOption = None,
    journal: JournalOption = None,
    config: ConfigOption = None,
    *,
    wanted: Filter,
) -> None:
    """Publish settled events or dead letters again; their records carry `relay_replayed: 1`."""
    change = _Change(
        "replay",
        "pending again; a running relay publishes it within a second",
        "pending again; a running relay publishes them, behind all others",
        lambda view, event_id: view.replay(event_id, wanted.app),
        lambda view, seqs: view.replay_seqs(seqs),
    )
    if not event_ids and wanted.outcome == journalview.PENDING:
        raise typer.BadParameter("what is pending is published anyway", param_hint="--outcome")
    if peers is not None:
        _change_of_all(change, Fleet(peers, config), event_ids, wanted, yes=yes, as_json=as_json)
        return
    _change(change, event_ids, wanted, (journal, config), yes=yes, as_json=as_json)


@app.command(epilog="Example: relay events discard a2afbfd2b19a8e301a0edd21038720a1")
@narrowed
def discard(
    event_ids: MaybeIds = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
    peers: PeersOption = None,
    journal: JournalOption = None,
    config: ConfigOption = None,
    *,
    wanted: Filter,
) -> None:
    """Let go of dead letters that are kept for a decision (too_large, refused, internal_error)."""
    if not event_ids and wanted != Filter() and wanted.outcome is None:
        wanted = replace(wanted, outcome=Outcome.DEAD_LETTER.value)
    change = _Change(
        "discard",
        "goes when the dedupe window has passed",
        "they go when the dedupe window has passed",
        lambda view, event_id: view.discard(event_id, wanted.app),
        lambda view, seqs: view.discard_seqs(seqs),
    )
    if peers is not None:
        _change_of_all(change, Fleet(peers, config), event_ids, wanted, yes=yes, as_json=as_json)
        return
    _change(change, event_ids, wanted, (journal, config), yes=yes, as_json=as_json)


def _change_of_all(
    change: "_Change",
    fleet: Fleet,
    event_ids: list[str] | None,
    wanted: Filter,
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """Change events where they lie; exit 1 where a replica does not answer, or one is left."""
    _refuse_both(event_ids, wanted)
    filters = [Filter(event_id=one, app=wanted.app) for one in event_ids or ()] or [wanted]
    found = [row for one in filters for row in fleet.every(one)]
    rows = [row for row in found if row[1].outcome != journalview.PENDING]
    _confirm(change, [life for _, life in rows], yes=yes or bool(event_ids))
    done = fleet.change(change.name, rows) if rows else []
    left = {name: why for one in done for name, why in one.left.items()}
    seen_ids = {life.event_id for _, life in found}
    ended = {life.event_id for _, life in rows}
    for event_id in event_ids or ():
        if event_id not in ended:
            left[event_id] = "is pending" if event_id in seen_ids else "no such event"
    count = sum(len(one.done) for one in done)
    if as_json:
        document({"done": count, "left": left})
    else:
        say(f"{count:,} events: {change.said_of_many}" if count else NOTHING)
        for name, why in left.items():
            say(f"{name}: {why}")
    if left or not (rows and fleet.whole):
        raise typer.Exit(1)


class _Change(NamedTuple):
    """What is to be done with events."""

    name: str
    said: str
    said_of_many: str
    one: Callable[[JournalView, str], None]
    many: Callable[[JournalView, Sequence[int]], Done]


def _change(
    change: _Change,
    event_ids: list[str] | None,
    wanted: Filter,
    where: tuple[Path | None, Path | None],
    *,
    yes: bool,
    as_json: bool,
) -> None:
    """Change the named events, or after a count all that are wanted."""
    _refuse_both(event_ids, wanted)
    if event_ids:
        with journalview.opened(path_of(*where)) as view:
            for event_id in event_ids:
                change.one(view, event_id)
                if not as_json:
                    say(f"{event_id}: {change.said}")
        if as_json:
            document({"done": len(event_ids), "left": {}})
        return
    seqs = _counted(change, wanted, where, yes=yes)
    with (
        searching("changing the journal") as progress,
        journalview.opened(path_of(*where), progress) as view,
    ):
        done = change.many(view, seqs)
    if as_json:
        document({"done": done.done, "left": done.left})
        return
    say(f"{done.done:,} events: {change.said_of_many}" if seqs else NOTHING)
    for why, count in done.left.items():
        say(f"{count:,} left as they are: each {why}")


def _counted(
    change: _Change, wanted: Filter, where: tuple[Path | None, Path | None], *, yes: bool
) -> list[int]:
    """Find what is wanted and has ended; say how many that are, and have them confirmed."""
    found: list[Life] = []
    with search.opened(path_of(*where), router_of(*where).ids) as view:
        for page in view.every(wanted):
            found += [life for life in page.lives if life.outcome != journalview.PENDING]
    _confirm(change, found, yes=yes)
    return [life.seq for life in found]


def _refuse_both(event_ids: list[str] | None, wanted: Filter) -> None:
    asked = wanted != Filter(app=wanted.app) if event_ids else wanted != Filter()
    if bool(event_ids) == asked:
        raise typer.BadParameter("name events by their ids, or narrow them by options: one of both")


def _confirm(change: _Change, found: Sequence[Life], *, yes: bool) -> None:
    """Say how many there are, and have somebody say yes."""
    if not found or yes:
        return
    ends = Counter(f"{life.outcome} {life.reason or ''}".strip() for life in found)
    kinds = ", ".join(f"{count:,} {ending}" for ending, count in ends.most_common())
    note(f"{len(found):,} events to {change.name}: {kinds}")
    if not asks():
        note(f"relay: nobody is there to confirm it: --yes {change.name}s them")
        raise typer.Exit(MISUSED)
    if not typer.confirm(f"{change.name.capitalize()} {len(found):,} events?"):
        raise typer.Exit(1)


@app.command(epilog="Example: relay events erase a2afbfd2b19a8e301a0edd21038720a1")
def erase(
    event_ids: EventIds,
    app_name: AppOption = None,
    journal: JournalOption = None,
    config: ConfigOption = None,
) -> None:
    """Let go of settled events' bodies at once; the ids stay, so that repeats are recognized."""
    with journalview.opened(path_of(journal, config)) as view:
        for event_id in event_ids:
            view.erase(event_id, app_name)
            say(f"{event_id}: has no body any more, and cannot be replayed")


def _record(stored: StoredEvent, journal: Path | None, config: Path | None) -> dict[str, object]:
    """Give the record that an event becomes, by the settings or else the defaults."""
    from relay.contract.normalize import normalize
    from relay.egress.kafka.faults import describe

    router = router_of(journal, config)
    try:
        made = normalize(stored, router)
    except Exception as error:  # noqa: BLE001 - the reader wants to know what went wrong
        return {"error": describe(error)}
    return {
        "topic": made.topic,
        "key": made.key.decode(),
        "headers": {name: value.decode() for name, value in made.headers},
        "value": _body(made.value) if made.value else None,
    }


def _body(body: bytes) -> object:
    """Give the body as JSON without its credentials; what cannot be read or printed, as text."""
    from relay.contract import exactjson
    from relay.contract.credentials import concealed, concealed_text

    if not body:
        return None
    try:
        value = concealed(exactjson.loads(body))
    except ValueError:
        return concealed_text(body.decode(errors="replace"))
    return value if printed(value) else concealed_text(body.decode(errors="replace"))

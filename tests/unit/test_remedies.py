"""What is wrong comes with what to do next, and a place in the docs that there is."""

import itertools
import json
import re
from collections.abc import AsyncIterator, Iterator

import pytest

from relay import errors
from relay.cli import check, remedies
from relay.cli.check import Finding, settled
from relay.cli.remedies import Remedy
from tests.unit.test_docs import OPERATIONS, ROOT, rows, slugs


def kinds(kind: type[errors.RelayError]) -> Iterator[type[errors.RelayError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from kinds(below)


@pytest.mark.parametrize("remedy", remedies.every(), ids=lambda one: one.code)
def test_place_of_every_remedy_is_there(remedy: Remedy) -> None:
    paper, _, anchor = remedy.place.partition("#")
    assert anchor in slugs((ROOT / paper).read_text())
    assert re.fullmatch("[a-z]+(_[a-z]+)*", remedy.code)
    assert remedy.advice
    assert not remedy.advice.endswith(".")


def test_every_code_has_a_row() -> None:
    """And a code is given once: a script tells by it what is wrong."""
    codes = [one.code for one in remedies.every()]
    assert len(codes) == len(set(codes))
    table = OPERATIONS.partition("### `relay check`")[2].partition("\n### ")[0]
    documented = {
        cells[0].strip("`"): cells[1].replace("`", "") for cells in rows(table) if len(cells) == 2
    }
    del documented["code"]
    assert documented == {
        one.code: f"{one.advice} ([more]({link(one)}))" for one in remedies.every()
    }


def link(remedy: Remedy) -> str:
    """Give its place as docs/operations.md links to it."""
    return remedy.place.removeprefix("docs/").removeprefix("operations.md")


@pytest.mark.parametrize("kind", list(kinds(errors.RelayError)), ids=lambda kind: kind.__name__)
def test_every_error_has_a_remedy(kind: type[errors.RelayError]) -> None:
    """What `serve` alone meets, and rides out, may have that of the class above."""
    assert remedies.of(kind.__new__(kind)).advice


def finding(code: str) -> Finding:
    return Finding(subject="kafka", passed=code == "ok", sentence="so", code=code)


@pytest.mark.parametrize(
    ("looks", "wait", "shown", "waited"),
    [
        ([["ok"]], 0, ["ok"], []),
        ([["ok"]], 9, ["ok"], []),
        ([["a", "ok"]], 0, ["a", "ok"], []),
        ([["a"], ["a", "b"], ["a", "b"], ["ok"]], 99, ["ok"], ["a", "a, b"]),
        ([["a"], ["b"], ["c"], ["d"]], 3, ["c"], ["a", "b"]),
        ([["a"], ["ok"]], 1, ["a"], []),
    ],
)
async def test_what_is_not_there_yet_is_waited_for(
    looks: list[list[str]],
    wait: float,
    shown: list[str],
    waited: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Then all is shown as it was found last; what is missing is said as it changes."""
    now, turns = 0.0, itertools.chain(looks)

    async def pause(seconds: float) -> None:
        nonlocal now
        now += seconds

    async def look() -> AsyncIterator[Finding]:
        for code in next(turns):
            yield finding(code)

    monkeypatch.setattr("relay.cli.check.asyncio.sleep", pause)
    monkeypatch.setattr("relay.cli.check.time.monotonic", lambda: now)
    told: list[Finding] = []
    assert await settled(look, wait, told.append) is (shown == ["ok"])
    assert [one.code for one in told] == shown
    assert capsys.readouterr().err.splitlines() == [f"waiting: {codes}" for codes in waited]


def test_finding_that_passes_may_be_a_warning() -> None:
    told = check._worry("copies", check._Worry("copies_frail", "one copy only of a"))
    assert told.passed
    assert told.document() == {
        "code": "copies_frail",
        "status": "warn",
        "subject": "copies",
        "sentence": "one copy only of a",
        "advice": "give the topics three copies, of which two must have each record",
        "docs": "docs/operations.md#rights-in-kafka",
    }


def test_finding_as_a_document_has_what_there_is() -> None:
    assert finding("ok").document() == {
        "code": "ok",
        "status": "ok",
        "subject": "kafka",
        "sentence": "so",
    }
    failed = check.failed("topics", errors.TopicMissingError("missing in Kafka: a"))
    assert json.loads(json.dumps(failed.document())) == {
        "code": "topics_missing",
        "status": "fail",
        "subject": "topics",
        "sentence": "missing in Kafka: a",
        "advice": "make the topics, or let relay do it: kafka.create_topics",
        "docs": "docs/operations.md#rights-in-kafka",
    }

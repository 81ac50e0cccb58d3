"""Who a journal is to Kafka: every line of the table in relay/egress/tenure.py."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from relay.egress.tenure import TENURES, Place, Ruling, Step, Tenure, Why
from relay.journal import file as journalfile
from relay.journal.rows import identity
from relay.journal.rows.identity import UNWRITTEN, Identity

NEW = Identity(id="j")
#: A start after the process of S, whose file held ten rows.
SEALED = Identity(id="j", signature="S", reach=10, predecessor=None)
#: The same, but whether S has come to Kafka is not known; P's offset can speak of six rows.
UNSURE = Identity(id="j", signature="S", reach=10, predecessor="P", predecessor_reach=6)
FIRST = Identity(id="j", signature="S", reach=10, predecessor="")
VERSION_2 = Identity(id="j", signature=UNWRITTEN, reach=10, predecessor=None)
#: The process of S itself, which has tried to publish up to row 8.
HOLDER = Tenure(file=replace(SEALED, reach=None), sent=8)


def kafka(offset: int, owner: str, **alone_from: int) -> Place:
    return Place(offset=offset, owner=owner, alone_from=alone_from)


NOBODY = kafka(0, "")


@pytest.mark.parametrize(
    ("file", "place", "expected"),
    [
        (NEW, NOBODY, Ruling(step=Step.SETTLE)),
        (NEW, kafka(1, "O"), Ruling(step=Step.PART, why=Why.REPLACED)),
        (NEW, kafka(5, "O", S=3), Ruling(step=Step.PART, why=Why.OLDER)),
        (VERSION_2, NOBODY, Ruling(step=Step.SETTLE)),
        (VERSION_2, kafka(11, "O"), Ruling(step=Step.SETTLE, below=11)),
        (VERSION_2, kafka(11, ""), Ruling(step=Step.SETTLE, below=11)),
        (VERSION_2, kafka(12, "O"), Ruling(step=Step.PART, below=11, why=Why.OLDER)),
        (SEALED, kafka(1, "S"), Ruling(step=Step.SETTLE, below=1)),
        (SEALED, kafka(11, "S", P=3), Ruling(step=Step.SETTLE, below=11)),
        (SEALED, kafka(12, "S"), Ruling(step=Step.PART, below=11, why=Why.OLDER)),
        (UNSURE, kafka(7, "P"), Ruling(step=Step.SETTLE, below=7)),
        (UNSURE, kafka(8, "P"), Ruling(step=Step.PART, below=7, why=Why.OLDER)),
        (UNSURE, kafka(11, "S", P=7), Ruling(step=Step.SETTLE, below=11)),
        (FIRST, NOBODY, Ruling(step=Step.SETTLE)),
        (FIRST, kafka(4, "S"), Ruling(step=Step.SETTLE, below=4)),
        (SEALED, NOBODY, Ruling(step=Step.PART, why=Why.FORGOTTEN)),
        (SEALED, kafka(7, ""), Ruling(step=Step.PART, why=Why.FORGOTTEN)),
        (UNSURE, NOBODY, Ruling(step=Step.PART, why=Why.FORGOTTEN)),
        # The seen case: the successor's file held five of the ten rows, and it has published more.
        (SEALED, kafka(9, "O", S=6), Ruling(step=Step.PART, below=6, why=Why.REPLACED)),
        # It has not yet published all that both have, and may never.
        (SEALED, kafka(4, "O", S=6), Ruling(step=Step.PART, below=4, why=Why.REPLACED)),
        # A snapshot of the time of S, which lasted until row 19.
        (SEALED, kafka(25, "O", P=22, S=20), Ruling(step=Step.PART, below=11, why=Why.OLDER)),
        (UNSURE, kafka(9, "O", P=5), Ruling(step=Step.PART, below=5, why=Why.REPLACED)),
        (UNSURE, kafka(9, "O", P=9), Ruling(step=Step.PART, below=7, why=Why.REPLACED)),
        (SEALED, kafka(9, "O", Q=6), Ruling(step=Step.PART, why=Why.REPLACED)),
        (SEALED, kafka(99, "O"), Ruling(step=Step.PART, why=Why.OLDER)),
    ],
)
def test_start(file: Identity, place: Place, expected: Ruling) -> None:
    """A process that begins on such a file, with such a word of Kafka's."""
    assert Tenure(file=file).rule(place) == expected


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (kafka(3, "S"), Ruling(step=Step.SETTLE, below=3)),
        (kafka(9, "S"), Ruling(step=Step.SETTLE, below=9)),
        (kafka(10, "S"), Ruling(step=Step.PART, why=Why.OLDER)),
        (NOBODY, Ruling(step=Step.PART, why=Why.FORGOTTEN)),
        (kafka(4, "O", S=6), Ruling(step=Step.ENDED, below=6, why=Why.REPLACED)),
        (kafka(40, "O", S=6), Ruling(step=Step.ENDED, below=6, why=Why.REPLACED)),
        (kafka(4, "O", Q=6), Ruling(step=Step.ENDED, why=Why.REPLACED)),
        (kafka(4, "P", S=6), Ruling(step=Step.ENDED, below=6, why=Why.REPLACED)),
    ],
)
def test_process_that_has_signed(place: Place, expected: Ruling) -> None:
    """It has heard from Kafka before: whoever has signed since is its successor."""
    assert HOLDER.held
    assert HOLDER.rule(place) == expected


def test_signature_is_stored_before_it_is_used() -> None:
    """In each state between, a new process finds its way."""
    place = kafka(8, "S", Q=3)
    begun = Tenure(file=SEALED)
    assert not begun.stored
    stored = begun.signing("T", place)
    assert (stored.stored, stored.held) == (True, False)
    assert stored.file == replace(
        SEALED, signature="T", reach=None, predecessor="S", predecessor_reach=10
    )
    successor = stored.successor(place)
    assert successor == kafka(8, "T", S=11, Q=3)
    signed = stored.signed()
    assert signed.held
    assert signed.file == Identity(id="j", signature="T", reach=None, predecessor=None)
    # Killed before it came to Kafka, and after; the file had 12 rows then.
    for file in (stored.file, signed.file):
        again = Tenure(file=replace(file, reach=12))
        assert again.rule(successor) == Ruling(step=Step.SETTLE, below=8)
    assert Tenure(file=replace(stored.file, reach=12)).rule(place).step is Step.SETTLE


def test_lost_answer_to_the_signature_is_no_successor() -> None:
    """The process that has stored it looks again, and finds itself or its predecessor."""
    stored = Tenure(file=SEALED).signing("T", kafka(8, "S"))
    assert stored.rule(kafka(8, "S")) == Ruling(step=Step.SETTLE, below=8)
    assert stored.rule(kafka(8, "T", S=11)) == Ruling(step=Step.SETTLE, below=8)
    assert stored.successor(kafka(8, "T", S=11)) == kafka(8, "T", S=11)
    # Meanwhile a copy of it, made after the store, has signed and published.
    assert stored.rule(kafka(12, "O", T=11, S=9)) == Ruling(
        step=Step.PART, below=11, why=Why.REPLACED
    )


def test_what_was_tried_bounds_what_is_believed() -> None:
    tenure = Tenure(file=SEALED).signing("T", kafka(8, "S")).signed()
    assert tenure.rule(kafka(9, "T")).why is Why.OLDER
    assert tenure.sending(8).sending(5).rule(kafka(9, "T")) == Ruling(step=Step.SETTLE, below=9)


def test_first_signature_of_a_new_name() -> None:
    stored = Tenure(file=NEW).signing("T", NOBODY)
    assert stored.file == Identity(id="j", signature="T", reach=None, predecessor="")
    assert stored.successor(NOBODY) == kafka(0, "T")
    assert stored.rule(NOBODY).step is Step.SETTLE
    assert stored.signed().rule(NOBODY).why is Why.FORGOTTEN


def test_new_name_knows_whose_claims_are_its_own() -> None:
    """Only what Kafka has forgotten: a successor's claims are its own."""
    forgotten = HOLDER.renewed("k", Why.FORGOTTEN, 12)
    assert forgotten == Tenure(file=Identity(id="k", former_ids="j", former_seq=12))
    again = forgotten.renewed("l", Why.FORGOTTEN, 15)
    assert again.file == Identity(id="l", former_ids="j k", former_seq=15)
    assert again.renewed("m", Why.REPLACED, 20).file == replace(again.file, id="m")
    assert HOLDER.renewed("k", Why.OLDER, 12).file == Identity(id="k")


def test_metadata_is_bounded() -> None:
    """Kafka takes 4,096 bytes, whoever has opened a journal."""
    place = Place()
    for number in range(200):
        tenure = Tenure(file=NEW).signing(f"{number:032x}", place)
        metadata = tenure.successor(replace(place, offset=2**62 + number)).metadata()
        assert len(metadata) < 4096
        place = Place.parse(2**62 + number, metadata)
    assert len(place.alone_from) == TENURES
    assert next(iter(place.alone_from.values())) == 2**62 + 199
    assert Place.parse(-1, "") == NOBODY


def test_latest_word_on_a_process_counts() -> None:
    """It took its place back in the moment before its successor signed."""
    tenure = Tenure(file=replace(SEALED, signature="b", reach=None, predecessor="a"))
    place = Place.parse(90, "a b@50 a@10")
    assert tenure.successor(place).metadata() == "b a@90"


def test_file_keeps_it(tmp_path: Path) -> None:
    """Every column, and the seal of a new process."""
    path = tmp_path / "journal.db"
    journalfile.prepare(path)
    with closing(sqlite3.connect(path)) as connection:
        made = identity.read(connection)
        assert replace(made, id="") == Identity(id="", reach=None)
        for wanted in (replace(UNSURE, former_ids="a b", former_seq=3), HOLDER.file, NEW):
            identity.write(connection, wanted)
            assert identity.read(connection) == wanted
        identity.write(connection, HOLDER.file)
        identity.seal(connection, 7)
        identity.seal(connection, 9)
        assert identity.read(connection).reach == 7

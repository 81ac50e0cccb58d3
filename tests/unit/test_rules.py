"""Each kind of rule by itself."""

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.contract.rules import kinds, objects, values
from relay.contract.rules.table import Findings, Kind, Rule, apply_table, fields
from relay.contract.rules.values import Unexpected


def applied(rule: dict[str, Rule], source: dict[str, Any]) -> tuple[Any, Findings]:
    findings: Findings = {}
    return apply_table(rule, source, findings), findings


@given(st.integers(min_value=-(10**14), max_value=253_402_300_799_999))
def test_rfc3339_agrees_with_the_standard_library(milliseconds: int) -> None:
    """Every day of the calendar, leap years and centuries included."""
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=0)
    try:
        moment += dt.timedelta(milliseconds=milliseconds)
    except OverflowError:
        return
    expected = f"{moment.year:04}-{moment:%m-%dT%H:%M:%S}.{milliseconds % 1000:03}Z"
    assert expected == values.rfc3339(milliseconds)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, "1970-01-01T00:00:01.000Z"),
        (99_999_999_999, "5138-11-16T09:46:39.000Z"),
        (100_000_000_000, "1973-03-03T09:46:40.000Z"),
        (99_999_999_999_999, "5138-11-16T09:46:39.999Z"),
        (100_000_000_000_000, "1973-03-03T09:46:40.000Z"),
        ("1608725989000", "2020-12-23T12:19:49.000Z"),
        (0, None),
        (-1, None),
        ("-1", None),
        (-(10**40), None),
        (None, None),
    ],
)
def test_instant_is_told_by_its_digits(value: object, expected: str | None) -> None:
    """1-11 digits are seconds, 12-14 milliseconds, 15-17 microseconds."""
    assert expected == values.to_instant(value)


@pytest.mark.parametrize("value", [10**17, "1" * 18, 10**4000, True, 1.0, "", "1.5", "x", [], {}])
def test_other_instants_are_unexpected(value: object) -> None:
    with pytest.raises(Unexpected):
        values.to_instant(value)


@pytest.mark.parametrize(
    ("value", "expected"), [(5, 5), ("5", 5), ("-007", -7), (None, None), ("9" * 40, 10**40 - 1)]
)
def test_integer_comes_as_number_or_text(value: object, expected: int | None) -> None:
    assert expected == values.to_integer(value)


@pytest.mark.parametrize(
    "value", [True, 5.0, "5.0", "", " 5", "5\n", "+5", "٥", "0x5", [], "9" * 5000]
)
def test_other_integers_are_unexpected(value: object) -> None:
    with pytest.raises(Unexpected):
        values.to_integer(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("a", "a"), ("", ""), (5, "5"), (-5, "-5"), (2**64, "18446744073709551616"), (None, None)],
)
def test_identifier_is_text(value: object, expected: str | None) -> None:
    assert ({"x": expected}, {}) == applied(fields("x", kinds.identifier), {"x": value})


@pytest.mark.parametrize("value", [True, 5.0, [], {}])
def test_other_identifiers_become_null(value: object) -> None:
    assert ({"x": None}, {"/x": value}) == applied(fields("x", kinds.identifier), {"x": value})


@pytest.mark.parametrize(
    ("factor", "value", "expected"),
    [
        (60, 3.5, 210.0),
        (60, "2.5", 150.0),
        (60, "2", 120),
        (1, 7, 7),
        (1, "-7", -7),
        (1, None, None),
        (1, "1234567890123456", 1234567890123456),
        (60, "0.1000000000000000055", 6.0),
        # What doubles make of these: 1.7999999999999998, 122.99999999999999, 7.800000000000001.
        (60, 0.03, 1.8),
        (60, 2.05, 123.0),
        (60, "0.13", 7.8),
        (60, 1e300, 6e301),
        pytest.param(60, 10**4298, 6 * 10**4299, id="4300 digits at last"),
    ],
)
def test_duration_is_in_seconds(factor: int, value: object, expected: float | None) -> None:
    found, findings = applied(fields("d", kinds.duration(factor)), {"d": value})
    assert ({"d_seconds": expected}, {}) == (found, findings)
    assert type(expected) is type(found["d_seconds"])


@given(st.integers(), st.sampled_from([1, 60]))
def test_duration_as_text_is_the_same(value: int, factor: int) -> None:
    table = fields("d", kinds.duration(factor))
    assert applied(table, {"d": str(value)}) == applied(table, {"d": value})


@pytest.mark.parametrize(
    "value",
    [
        *(True, "", "1e3", "x", "1.", ".5", "1.5.", "٥", [], {}, 1e308),
        pytest.param("9" * 5000, id="text of 5000 digits"),
        pytest.param("9" * 400 + ".5", id="no double"),
        pytest.param(10**4299, id="4300 digits"),
        pytest.param(-(10**4299), id="minus and 4300 digits"),
    ],
)
def test_other_durations_become_null(value: object) -> None:
    """1e308 minutes are more seconds than a double can say, 10**4299 more than Python writes."""
    found = applied(fields("d", kinds.duration(60)), {"d": value})
    assert ({"d_seconds": None}, {"/d": value}) == found


def test_field_without_rule_is_unchanged() -> None:
    source = {"a": [1, {"b": None}], "/~": 2}
    assert (source, {}) == applied({}, source)


def test_absent_field_stays_absent() -> None:
    table = fields("a", kinds.identifier) | fields("b", objects.array())
    assert applied(table, {}) == ({}, {})


@pytest.mark.parametrize("order", [("s", "s_code"), ("s_code", "s")])
def test_our_name_wins_and_theirs_is_kept_aside(order: tuple[str, str]) -> None:
    """Whichever of the two comes first in the document."""
    values = {"s": 1, "s_code": "theirs"}
    source = {name: values[name] for name in order}
    found = applied(fields("s", kinds.enum({1: "one"})), source)
    assert found == ({"s": "one", "s_code": 1}, {"/s_code": "theirs"})


DERIVING = fields("s", kinds.enum({1: "one"})) | fields("d", kinds.duration(60))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("s_code", 5),
        ("s_code", 2**70),
        ("s_code", None),
        ("d_seconds", 5),
        ("d_seconds", 2.5),
        ("d_seconds", None),
    ],
)
def test_our_name_alone_stays_if_it_fits(name: str, value: object) -> None:
    assert ({name: value}, {}) == applied(DERIVING, {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("s_code", "open"),
        ("s_code", "5"),
        ("s_code", 5.0),
        ("s_code", True),
        ("s_code", {"x": 1}),
        ("d_seconds", "7"),
        ("d_seconds", True),
        ("d_seconds", [1]),
    ],
)
def test_our_name_alone_is_kept_aside_if_it_does_not_fit(name: str, value: object) -> None:
    """A consumer may rely on the type of `status_code`, whoever sent it."""
    assert ({}, {f"/{name}": value}) == applied(DERIVING, {name: value})


@pytest.mark.parametrize("value", ["text", 5, [1], [{"x": 1}], True])
def test_what_is_no_object_becomes_null(value: object) -> None:
    """A consumer may rely on it: an object, or null."""
    table = fields("o", objects.record(fields("x", kinds.identifier)))
    assert ({"o": None}, {"/o": value}) == applied(table, {"o": value})
    assert applied(table, {"o": None}) == ({"o": None}, {})


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (kinds.string, "", ""),
        (kinds.string, "a", "a"),
        (kinds.string, None, None),
        (kinds.flag, True, True),
        (kinds.flag, False, False),
        (kinds.flag, None, None),
        (kinds.strings, ["a", ""], ["a", ""]),
        (kinds.strings, "a", ["a"]),
        (kinds.strings, None, []),
        (kinds.strings, [], []),
        (kinds.string_or_strings, "a", "a"),
        (kinds.string_or_strings, ["a", "b"], ["a", "b"]),
        (kinds.string_or_strings, [], []),
        (kinds.string_or_strings, None, None),
        (objects.array(), {"x": 1}, [{"x": 1}]),
        (objects.array(), None, []),
        (objects.array(), [{}, {"x": 1}], [{}, {"x": 1}]),
    ],
)
def test_what_fits_is_uniform(kind: Kind, value: object, expected: object) -> None:
    assert ({"f": expected}, {}) == applied(fields("f", kind), {"f": value})


@pytest.mark.parametrize(
    ("kind", "values", "fallback"),
    [
        (kinds.string, [5, 2**70, 5.0, True, [], ["a"], {}, {"zh_cn": "a"}], None),
        (kinds.flag, [0, 1, 1.0, "true", "", [], {}], None),
        (kinds.strings, [5, False, {}, {"a": "b"}], []),
        (kinds.string_or_strings, [5, 2.5, True, {}, {"a": "b"}], None),
        (objects.array(), ["a", "", 5, False], []),
    ],
)
def test_what_does_not_fit_is_kept_aside(
    kind: Kind, values: list[object], fallback: object
) -> None:
    for value in values:
        assert ({"f": fallback}, {"/f": value}) == applied(fields("f", kind), {"f": value})


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (kinds.strings, ["a", 1, None, ["b"], "c"], ["a", "c"]),
        (kinds.string_or_strings, [1, "a", {}], ["a"]),
        (objects.array(), [{"a": 1}, None, "b", [{}], {"c": 2}], [{"a": 1}, {"c": 2}]),
        (objects.array(fields("n", kinds.string)), ["b", {"n": "a"}], [{"n": "a"}]),
    ],
)
def test_items_of_another_kind_leave_their_list(
    kind: Kind, value: list[object], expected: object
) -> None:
    """The whole list is kept as it came."""
    assert ({"f": expected}, {"/f": value}) == applied(fields("f", kind), {"f": value})


PERSON = fields("name city", kinds.string) | fields(
    "id", objects.record(fields("open_id union_id", kinds.identifier))
)


@pytest.mark.parametrize(
    ("person", "expected", "misfits"),
    [
        ({"name": "a", "id": {"open_id": "o"}}, {"name": "a", "id": {"open_id": "o"}}, {}),
        ({"name": "a", "new": "b"}, {"name": "a", "new": "b"}, {}),
        ({"name": "a", "new": 5}, {"name": "a", "new": 5}, {}),
        ({"name": 5, "new": 5}, {"name": None, "new": 5}, {"/name": 5}),
        ({"id": "o"}, {"id": None}, {"/id": "o"}),
        ({"id": None, "name": None}, {"id": None, "name": None}, {}),
        ({"id": {"open_id": 7}}, {"id": {"open_id": "7"}}, {}),
        ({"id": {"open_id": "7", "new": 8}}, {"id": {"open_id": "7", "new": 8}}, {}),
        ({"id": {"open_id": []}}, {"id": {"open_id": None}}, {"/id/open_id": []}),
    ],
)
@pytest.mark.parametrize("kind", ["record", "array"])
def test_objects_of_texts_are_made_uniform(
    kind: str, person: dict[str, Any], expected: object, misfits: Findings
) -> None:
    """There is a short way for those that need nothing; it leads to the same."""
    one = kind == "record"
    table = fields("p", objects.record(PERSON) if one else objects.array(PERSON))
    found = applied(table, {"p": person if one else [person]})
    place = "/p" if one else "/p/0"
    assert found == (
        {"p": expected if one else [expected]},
        {place + pointer: value for pointer, value in misfits.items()},
    )


def test_pointer_tells_the_way_from_the_event() -> None:
    """Also where another item leaves the list: the indexes are those of the input."""
    items = fields("n", kinds.integer)
    table = fields("o", objects.record(fields("l", objects.array(items))))
    given_list = [{"n": 1}, 2, {"n": "x"}]
    found, findings = applied(table, {"o": {"l": given_list}})
    assert found == {"o": {"l": [{"n": 1}, {"n": None}]}}
    assert findings == {"/o/l/2/n": "x", "/o/l": given_list}

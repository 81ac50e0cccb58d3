"""The console's gate and words, without a network."""

import asyncio
from base64 import b64encode

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from relay.console import guard, words
from relay.console.pages import Pages
from relay.console.said import Answer, Disk, Link, Overview
from relay.observe.account import Account
from relay.observe.logs import Trouble

PASSWORD = "correct horse 电池"


def basic(password: str = PASSWORD, user: str = "ann") -> str:
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


class Asked:
    """A request as the gate sees it."""

    def __init__(self, given: str | None, remote: str = "10.0.0.1", cookie: str = "") -> None:
        self.headers = {} if given is None else {"Authorization": given}
        self.remote = remote
        self.cookies = {guard.COOKIE: cookie} if cookie else {}


async def admitted(gate: guard.Gate, asked: Asked) -> str:
    return await gate.admit(asked)  # type: ignore[arg-type]  # what it reads is there


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the gate waits, which pass at once."""
    found: list[float] = []

    async def sleep(seconds: float) -> None:
        found.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return found


@pytest.mark.parametrize("user", ["ann", "李雷", "ann@example.com"])
async def test_who_has_the_password_is_let_in_by_his_name(user: str, waits: list[float]) -> None:
    assert await admitted(guard.Gate(PASSWORD), Asked(basic(user=user))) == user
    assert waits == [0]


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "Basic",
        "Basic ?",
        "Bearer " + basic()[6:],
        basic("wrong"),
        basic(""),
        basic(PASSWORD + " "),
        basic(user=""),
        basic(user="a\nb"),
        basic(user="a\u202eb"),
        basic(user="a" * 101),
        "Basic " + b64encode(b"\xff\xfe:" + PASSWORD.encode()).decode(),
    ],
)
async def test_nobody_else_is_let_in(given: str | None, waits: list[float]) -> None:
    with pytest.raises(web.HTTPUnauthorized) as refused:
        await admitted(guard.Gate(PASSWORD), Asked(given))
    assert refused.value.headers["WWW-Authenticate"].startswith("Basic ")


async def test_wrong_passwords_cost_time_and_only_where_they_come_from(
    waits: list[float],
) -> None:
    gate = guard.Gate(PASSWORD)
    for _ in range(8):
        with pytest.raises(web.HTTPUnauthorized):
            await admitted(gate, Asked(basic("wrong")))
    assert waits == [0, 0.25, 0.5, 1, 2, 4, 4, 4]
    await admitted(gate, Asked(basic(), remote="10.0.0.2"))
    await admitted(gate, Asked(basic()))
    await admitted(gate, Asked(basic()))
    assert waits[-3:] == [0, 4, 0]


async def test_one_who_was_in_waits_for_no_stranger(waits: list[float]) -> None:
    """Behind one proxy all come from one address."""
    gate = guard.Gate(PASSWORD)
    for _ in range(3):
        with pytest.raises(web.HTTPUnauthorized):
            await admitted(gate, Asked(basic("wrong")))
    waits.clear()
    await admitted(gate, Asked(basic(), cookie=gate.cookie()))
    assert waits == []
    with pytest.raises(web.HTTPUnauthorized):
        await admitted(gate, Asked(basic("wrong"), cookie=gate.cookie()))
    await admitted(gate, Asked(basic(), cookie=guard.Gate("another one").cookie()))
    assert len(waits) == 1


async def test_few_wait_at_a_time() -> None:
    """More would be ways to try more passwords at a time."""
    gate = guard.Gate(PASSWORD)
    with pytest.raises(web.HTTPUnauthorized):
        await admitted(gate, Asked(basic("wrong")))
    waiting = [
        asyncio.create_task(admitted(gate, Asked(basic("wrong")))) for _ in range(guard.WAITING)
    ]
    await asyncio.sleep(0)
    with pytest.raises(web.HTTPTooManyRequests):
        await admitted(gate, Asked(basic()))
    assert await admitted(gate, Asked(basic(), remote="10.0.0.2")) == "ann"
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert not gate._waiting


async def test_strangers_cannot_make_it_grow(waits: list[float]) -> None:
    gate = guard.Gate(PASSWORD)
    for number in range(guard.ADDRESSES + 50):
        remote = f"10.1.{number // 256}.{number % 256}"
        with pytest.raises(web.HTTPUnauthorized):
            await admitted(gate, Asked(basic("wrong"), remote=remote))
    assert len(gate._wrong) == guard.ADDRESSES


@pytest.mark.parametrize(
    ("remote", "place"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::2%eth0", "2001:db8::/64"),
        (None, ""),
    ],
)
def test_an_ipv6_network_is_one_place(remote: str | None, place: str) -> None:
    assert guard._place(remote) == place


async def test_wrong_passwords_are_forgiven(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = guard.Gate(PASSWORD)
    for _ in range(3):
        with pytest.raises(web.HTTPUnauthorized):
            await admitted(gate, Asked(basic("wrong")))
    monkeypatch.setattr(guard, "FORGIVEN", 0.0)
    with pytest.raises(web.HTTPUnauthorized):
        await admitted(gate, Asked(basic("wrong")))
    assert waits[-1] == 0
    assert [count for count, _ in gate._wrong.values()] == [1]


def test_a_form_is_the_users_own_and_of_today(monkeypatch: pytest.MonkeyPatch) -> None:
    gate, other = guard.Gate(PASSWORD), guard.Gate(PASSWORD + "!")
    token = gate.token("ann")
    assert guard.Gate(PASSWORD).is_own(token, "ann"), "another replica's page is our own, too"
    assert not gate.is_own(token, "bob")
    assert not other.is_own(token, "ann")
    for strange in ("", "x", gate.cookie(), "\udcff", token[:-1]):
        assert not gate.is_own(strange, "ann")
    now = guard._period()
    for age, good in [(1, True), (2, False)]:
        monkeypatch.setattr(guard, "_period", lambda age=age: now + age)
        assert gate.is_own(token, "ann") is good


@pytest.mark.parametrize(
    ("headers", "strict", "passes"),
    [
        ({"Origin": "http://h:1", "Sec-Fetch-Site": "same-origin"}, True, True),
        ({"Origin": "http://h:1"}, True, True),
        ({"Sec-Fetch-Site": "same-origin"}, True, True),
        ({}, False, True),
        ({}, True, False),
        ({"Origin": "http://evil"}, True, False),
        ({"Origin": "http://evil"}, False, False),
        ({"Origin": "null"}, True, False),
        ({"Origin": "http://h:2"}, True, False),
        ({"Origin": "http://h:1", "Sec-Fetch-Site": "cross-site"}, True, False),
        ({"Sec-Fetch-Site": "same-site"}, False, False),
        ({"Sec-Fetch-Site": "none"}, True, False),
    ],
)
def test_what_another_site_sends_is_refused(
    headers: dict[str, str], *, strict: bool, passes: bool
) -> None:
    request = make_mocked_request("POST", "/replay", headers={"Host": "h:1", **headers})
    if passes:
        guard.refuse_foreign(request, strict=strict)
    else:
        with pytest.raises(web.HTTPForbidden):
            guard.refuse_foreign(request, strict=strict)


@pytest.mark.parametrize(
    ("at", "said"),
    [
        (0, "0 s ago"),
        (-999, "0 s ago"),
        (-1500, "1 s ago"),
        (-61_000, "1 min ago"),
        (-7_300_000, "2 h ago"),
        (-200_000_000, "2 d ago"),
        (5000, "0 s ago"),
    ],
)
def test_how_long_ago(at: int, said: str) -> None:
    now = 1_767_323_045_678
    assert words.ago(now + at, now) == said
    assert words.ago(None, now) == ""


def test_times_and_sizes() -> None:
    assert words.moment(1_767_323_045_678) == "2026-01-02 03:04:05 UTC"
    assert words.machine(1_767_323_045_678) == "2026-01-02T03:04:05Z"
    assert words.moment(None) == ""
    assert words.moment(-5) == "1970-01-01 00:00:00 UTC"
    assert words.moment(2**62) == "9999-12-31 23:59:59 UTC"
    assert [words.span(ms) for ms in (0, 3, 999, 1000, -1)] == [
        "0 s",
        "3 ms",
        "999 ms",
        "1 s",
        "0 s",
    ]
    assert [words.size(n) for n in (0, 1023, 1024, 2**40, 2**60)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.0 TiB",
        "1048576.0 TiB",
    ]
    assert words.number(1234567) == "1,234,567"


def overview(**changes: object) -> Overview:
    account = Account(received=10, published=6, duplicate=1, dead_letter=1, pending=1, withheld=1)
    values: dict[str, object] = {
        "journal": "j-1",
        "name": "relay-0",
        "version": "1",
        "now": 1_767_323_045_678,
        "started_at": 1_767_323_000_000,
        "draining": False,
        "ready": True,
        "account": account,
        "oldest_pending": None,
        "disk": Disk(size=10, log=1, used=5, maximum=100, volume_free=1000),
        "kafka": Link(up=True),
        "claims": None,
        "connections": (),
    }
    return Overview(**{**values, **changes})  # type: ignore[arg-type]


FAILING = Link(name="a", up=False, trouble=Trouble(event="e", error="no route", since=1))
OVER = Link(name="a", up=True, trouble=Trouble(event="e", error="no route", since=1, until=2))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"oldest_pending": 1_767_323_045_000}, ""),
        ({"kafka": OVER, "connections": (OVER,), "claims": OVER}, ""),
        ({"kafka": Link(up=False)}, ""),
        ({"draining": True, "ready": False}, ""),
        ({"oldest_pending": 1_767_322_045_000}, "an event has waited 16 min for Kafka"),
        ({"kafka": FAILING}, "Kafka: no route"),
        ({"claims": FAILING}, "the claims store: no route"),
        ({"connections": (OVER, FAILING)}, "the long connection of a: no route"),
        ({"ready": False}, "takes no events"),
        ({"letters": {"no_event_id": 3, "discarded": 2}}, ""),
        ({"letters": {"too_large": 3, "refused": 1, "not_json": 2}}, "has the body: 4"),
        ({"journal": ""}, "its journal cannot be opened"),
        ({"disk": Disk(size=1, log=0, used=95, maximum=100, volume_free=1)}, "nearly full"),
        (
            {"account": Account(received=2, published=1, duplicate=0, dead_letter=0, pending=0)},
            "does not balance",
        ),
    ],
)
def test_what_needs_a_person(changes: dict[str, object], said: str) -> None:
    found = words.attention([Answer(name="r", said=overview(**changes))])
    assert [one.replica for one in found] == ["r"] * bool(said)
    assert said in "".join(one.sentence for one in found)


def test_a_replica_that_does_not_answer_is_named() -> None:
    away: Answer[Overview] = Answer(name="x", problem="refused")
    answers = [Answer(name="r", said=overview()), away]
    found = words.attention(answers)
    assert [(one.replica, one.sentence[:24]) for one in found] == [
        ("x", "does not answer: refused")
    ]


@pytest.mark.parametrize(
    ("link", "word"),
    [(OVER, "connected"), (FAILING, "failing"), (Link(up=False), "not connected yet")],
)
def test_how_a_link_is(link: Link, word: str) -> None:
    assert words.standing(link) == word


def test_whatever_is_put_into_a_page_is_text() -> None:
    hostile = "<script>alert(1)</script>\u202e&\x1b[31m"
    page = Pages().render("refused", {"title": hostile, "sentence": hostile, "user": hostile})
    assert "<script" not in page
    assert not {"\u202e", "\x1b"} & set(page)

"""The simulator against targets that keep their rules, break them, or are not there."""

import asyncio
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from rich.console import Console

from relay.errors import RelayError
from relay.simulator import sender
from relay.simulator.run import simulate
from relay.simulator.sender import NO_ANSWER, Answer, Kind, Simulator
from relay.simulator.sender import SimulatorOptions as Options

Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def target(answering: Answering) -> AsyncIterator[str]:
    app = web.Application(client_max_size=2**22)
    app.router.add_post("/webhook/event", answering)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"http://127.0.0.1:{port}/webhook/event"
    finally:
        await runner.cleanup()


async def accept(request: web.Request) -> web.StreamResponse:
    await request.read()
    return web.json_response({"msg": "success"})


async def answers(options: Options, stop: asyncio.Event | None = None) -> list[Answer]:
    given: list[Answer] = []
    await Simulator(options).run(given.append, stop)
    return given


async def test_it_sends_as_many_as_asked() -> None:
    async with target(accept) as url:
        given = await answers(Options(url=url, count=100, repeat=0.2, verification_token="t"))
    assert len(given) == 100
    assert {200} == {answer.status for answer in given}
    assert not any(answer.unexpected for answer in given)
    assert {Kind.EVENT, Kind.REPEAT} == {answer.kind for answer in given}


async def test_a_target_that_takes_everything_is_found_out() -> None:
    async with target(accept) as url:
        given = await answers(Options(url=url, count=60, hostile=0.5, seed=1, encrypt_key="k"))
    assert {True} == {answer.unexpected for answer in given if answer.kind.hostile}


async def test_it_keeps_its_rate() -> None:
    begun = time.monotonic()
    async with target(accept) as url:
        await answers(Options(url=url, count=11, rate=20))
    assert 0.5 <= time.monotonic() - begun < 2


async def test_it_stops_when_told() -> None:
    stop = asyncio.Event()
    given: list[Answer] = []

    def report(answer: Answer) -> None:
        given.append(answer)
        if len(given) == 5:
            stop.set()

    async with target(accept) as url:
        await Simulator(Options(url=url, rate=200)).run(report, stop)
    assert 5 <= len(given) < 20


async def test_an_endless_run_without_a_rate_stops_too() -> None:
    stop = asyncio.Event()
    async with target(accept) as url:
        asyncio.get_running_loop().call_later(0.1, stop.set)
        assert len(await answers(Options(url=url), stop)) > 10


async def test_no_answer_in_time_and_a_lost_connection_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sender, "ANSWER_LIMIT", 0.2)
    calls = 0

    async def difficult(request: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.sleep(1)
        elif request.transport is not None:
            request.transport.abort()
        return web.Response()

    async with target(difficult) as url:
        given = await answers(Options(url=url, count=2, rate=2))
    assert [answer.status for answer in given] == [NO_ANSWER, NO_ANSWER]
    assert "no answer within" in given[0].problem
    assert "connection lost" in given[1].problem
    assert all(answer.unexpected for answer in given)


async def test_a_target_that_goes_away_is_an_answer_like_others() -> None:
    stop, given = asyncio.Event(), list[Answer]()

    def report(answer: Answer) -> None:
        given.append(answer)
        if answer.problem:
            stop.set()

    async with target(accept) as url:
        sending = asyncio.create_task(Simulator(Options(url=url, rate=50)).run(report, stop))
        while not given:  # noqa: ASYNC110 - the run reports, nothing to wait on
            await asyncio.sleep(0.01)
    await asyncio.wait_for(sending, 10)
    assert given[0].status == 200
    assert given[-1].problem


@pytest.mark.parametrize(
    ("url", "sentence"),
    [("http://127.0.0.1:1/", "nothing listens at"), ("nonsense", "is not a URL")],
)
async def test_no_target_is_one_sentence(url: str, sentence: str) -> None:
    with pytest.raises(RelayError, match=sentence):
        await answers(Options(url=url, count=50))


@pytest.mark.parametrize("count", [20, 0])
@pytest.mark.parametrize("terminal", [True, False])
async def test_a_run_ends_with_a_table_and_a_sentence(count: int, *, terminal: bool) -> None:
    """Also one without end, when it is interrupted."""
    out = io.StringIO()
    console = Console(file=out, width=100, force_terminal=terminal)
    async with target(accept) as url:
        run = asyncio.create_task(simulate(Options(url=url, count=count, rate=100), console))
        if not count:
            asyncio.get_running_loop().call_later(0.2, run.cancel)
        summary = await run
    text = out.getvalue()
    assert summary.sent > 5
    assert summary.unexpected == 0
    assert ("Stopped." in text) == (not count)
    assert "as it must be" in text
    assert "every answer was as it must be" in " ".join(text.split())

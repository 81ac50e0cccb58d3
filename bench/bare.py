"""The yardstick: the least that an aiohttp server does with an event.

It reads the body and answers; it checks, stores and forwards nothing. A process of its own:
`python -m bench.bare PORT`.
"""

import asyncio
import sys

import uvloop
from aiohttp import web

from bench.events import PATH

_ANSWER = b'{"msg":"success"}'


async def answer(request: web.Request) -> web.Response:
    """Read the body and throw it away."""
    await request.read()
    return web.Response(body=_ANSWER, content_type="application/json")


async def serve(port: int) -> None:
    """Serve until the process is stopped."""
    application = web.Application()
    application.router.add_post(PATH, answer)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))

"""Feishu's official Python SDK at work: `client.py MODE URL PORT APP_ID SECRET KEY TOKEN`.

MODE is `webhook` (listens on PORT) or `long-connection` (connects to URL). Prints one JSON line for
each event that a handler got.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import lark_oapi
from lark_oapi.core.model import RawRequest

TYPES = (
    "helpdesk.ticket.created_v1",
    "helpdesk.ticket.updated_v1",
    "helpdesk.ticket_message.created_v1",
    "helpdesk.notification.approve_v1",
)


def on_event(data: Any) -> None:
    """Say which event has come."""
    header = json.loads(lark_oapi.JSON.marshal(data))["header"]
    print(json.dumps({"event_id": header["event_id"]}), flush=True)


def dispatcher(key: str, token: str) -> Any:
    """Take all four events as they are; the typed models do not fit all real ones."""
    builder = lark_oapi.EventDispatcherHandler.builder(key, token)
    for event_type in TYPES:
        builder.register_p2_customized_event(event_type, on_event)
    return builder.build()


def serve(port: int, handler: Any) -> None:
    """Answer callbacks with the SDK's dispatcher."""

    class Callback(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = RawRequest()
            request.uri = self.path
            request.headers = dict(self.headers.items())
            request.body = self.rfile.read(int(self.headers["Content-Length"]))
            answer = handler.do(request)
            self.send_response(answer.status_code)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Callback)
    print(json.dumps({"ready": True}), flush=True)
    server.serve_forever()


def main() -> None:
    """Run until the process is stopped."""
    mode, url, port, app_id, secret, key, token = sys.argv[1:]
    if mode == "webhook":
        serve(int(port), dispatcher(key, token))
    client = lark_oapi.ws.Client(app_id, secret, event_handler=dispatcher("", ""), domain=url)
    client.start()


if __name__ == "__main__":
    main()

"""Send one event through the Service, and see on the replicas' metrics that it was published.

Right after an install nothing may be there yet: names, pods, Kafka. All of it is waited for.
"""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from http import HTTPStatus
from http.client import HTTPException

from relay import settings

NAME = re.compile(r'^relay_settled_total\{outcome="published"\} (\S+)$', re.MULTILINE)
#: Seconds for all of it, less than Helm's own 5 minutes; and between two looks.
PATIENCE, PAUSE = float(os.environ.get("PATIENCE", "240")), 1.0


class Wait:
    """Says each new reason, and ends where there is no time left."""

    def __init__(self) -> None:
        self._until = time.monotonic() + PATIENCE
        self._said = ""

    def __call__(self, why: str, error: Exception | None = None) -> None:
        """Wait a moment."""
        if error is not None:
            cause = getattr(error, "reason", error)
            why += f": {getattr(cause, 'strerror', None) or cause or type(cause).__name__}"
        if time.monotonic() > self._until:
            sys.exit(f"Not within {PATIENCE:g} s. {why}. Try `relay check` in a pod; see its log.")
        if why != self._said:
            print(f"waits: {why}", flush=True)
            self._said = why
        time.sleep(PAUSE)


def published(wait: Wait) -> float:
    """Sum up over all replicas, when all are there."""
    place, port = os.environ["REPLICAS"], int(os.environ["ADMIN_PORT"])
    while True:
        try:
            found = socket.getaddrinfo(place, port, type=socket.SOCK_STREAM)
            counts = [settled(host, port) for host in sorted({at[4][0] for at in found})]
        except (OSError, ValueError, HTTPException) as error:
            wait(f"the replicas' metrics, at {place}:{port}, cannot be read", error)
            continue
        if len(counts) >= int(os.environ["COUNT"]):
            return sum(counts)
        wait(f"{len(counts)} of {os.environ['COUNT']} replicas are there")


def settled(host: str, port: int) -> float:
    """Read the number of one replica."""
    url = f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        count = NAME.search(answer.read().decode())
    if count is None:
        raise ValueError("they are not relay's")
    return float(count[1])


def see_listener(url: str, wait: Wait) -> None:
    """Wait until a replica that is ready answers behind the Service."""
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError as answer:
            if answer.code == HTTPStatus.METHOD_NOT_ALLOWED:
                return
            wait(f"{url} answers {answer.code}")
        except (OSError, HTTPException) as error:
            wait(f"{url} does not answer", error)
        else:
            wait(f"what answers at {url} is not relay")


def send(app: settings.App, url: str, wait: Wait) -> None:
    """Have one event taken."""
    secrets = {
        "RELAY_APPS__DEFAULT__ENCRYPT_KEY": (app.encrypt_keys or ("",))[0],
        "RELAY_APPS__DEFAULT__VERIFICATION_TOKEN": (app.verification_tokens or ("",))[0],
    }
    command = ["relay", "simulate", "--url", url, "--count", "1", "--repeat", "0"]
    while subprocess.run(command, env=os.environ | secrets, check=False).returncode:
        wait(f"{url} did not take the event")


def see_console(url: str, password: str, wait: Wait) -> None:
    """Wait until the console keeps a stranger out and lets the operator in."""
    login = b64encode(f"helm-test:{password}".encode()).decode()
    while True:
        found = [console_status(url, {}), console_status(url, {"Authorization": f"Basic {login}"})]
        if found == [HTTPStatus.UNAUTHORIZED, HTTPStatus.OK]:
            return
        wait(f"{url} answers {found[0]} without the password and {found[1]} with it")


def console_status(url: str, headers: dict[str, str]) -> int:
    """Give what it answers; 0 for nothing."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=5):
            return HTTPStatus.OK
    except urllib.error.HTTPError as answer:
        return answer.code
    except (OSError, HTTPException):
        return 0


def main() -> None:
    """Do it."""
    wait, url = Wait(), os.environ["WEBHOOK"]
    loaded = settings.load()
    app = loaded.apps[os.environ["APP"]]
    if console := os.environ.get("CONSOLE"):
        see_console(console, loaded.console.password.get_secret_value(), wait)
    before = published(wait)
    if not app.encrypt_keys and not app.verification_tokens:
        print("The app has a long connection only: its replicas answer, and nothing was sent.")
        return
    see_listener(url, wait)
    send(app, url, wait)
    while published(wait) <= before:
        wait("the event was taken, but it is not published yet")
    print("One event went in through the Service and out to Kafka.")


main()

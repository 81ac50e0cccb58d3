"""Send one event through the Service, and see on the replicas' metrics that it was published."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request

from relay import settings

PATIENCE = 60.0
NAME = re.compile(r'^relay_settled_total\{outcome="published"\} (\S+)$', re.MULTILINE)


def published() -> float:
    """Sum up over all replicas."""
    port = int(os.environ["ADMIN_PORT"])
    found = socket.getaddrinfo(os.environ["REPLICAS"], port, type=socket.SOCK_STREAM)
    total = 0.0
    for host in sorted({address[4][0] for address in found}):
        url = f"http://[{host}]:{port}/metrics" if ":" in host else f"http://{host}:{port}/metrics"
        with urllib.request.urlopen(url, timeout=5) as answer:
            total += float(NAME.search(answer.read().decode())[1])
    return total


app = settings.load().apps[os.environ["APP"]]
before = published()
if not app.encrypt_keys and not app.verification_tokens:
    print("The app has a long connection only: its replicas answer, and nothing was sent.")
    sys.exit(0)
secrets = {
    "RELAY_APPS__DEFAULT__ENCRYPT_KEY": (app.encrypt_keys or ("",))[0],
    "RELAY_APPS__DEFAULT__VERIFICATION_TOKEN": (app.verification_tokens or ("",))[0],
}
command = ["relay", "simulate", "--url", os.environ["WEBHOOK"], "--count", "1", "--repeat", "0"]
subprocess.run(command, env=os.environ | secrets, check=True)
deadline = time.monotonic() + PATIENCE
while published() <= before:
    if time.monotonic() > deadline:
        sys.exit(f"The event was taken, but not published within {PATIENCE:g} s; see relay's log.")
    time.sleep(0.5)
print("One event went in through the Service and out to Kafka.")

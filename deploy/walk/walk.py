#!/usr/bin/env python3
"""Walks through an operator's life on a real cluster: `deploy/walk/walk.py --before CHART`.

Wants kubectl and helm with a cluster that has the images of deploy/walk/images; makes what it needs
in two namespaces. It begins with an earlier chart and image, if one is given, and upgrades them.
Under load all the time; at the end every event that was acknowledged must be on Kafka once. Prints
Markdown; exit 1 if something is not so.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
CHART = HERE.parent / "helm"
#: Replaced by nobody's secrets: the cluster is thrown away.
KEY, TOKEN = "walk-encrypt-key", "walk-verification-token"
MINIMAL = [
    "--set",
    "kafka.bootstrapServers=kafka.stores:9092",
    "--set",
    f"apps.default.encryptKey={KEY}",
    "--set",
    f"apps.default.verificationToken={TOKEN}",
]
CLAIMS = ["--set", "claims.url=redis://redis.stores:6379/0"]

#: For helm, which waits for the pods.
PATIENCE = ("--timeout", "180s")

REPLICAS = 3
ONE = ["--set", "replicaCount=1", *CLAIMS]
THREE = ["--set", f"replicaCount={REPLICAS}", *CLAIMS]
#: Some change, so that pods are replaced.
DEBUG = ["--set", "settings.log.level=debug"]
#: Beyond the chart's default; the store's class must be able to enlarge.
LARGER = {"persistence.size": "14Gi", "settings.journal.max_bytes": "12GiB"}
LARGER_VALUES = [part for name in LARGER for part in ("--set", f"{name}={LARGER[name]}")]

Counts = dict[str, int]


class Walk:
    """One walk; `steps` are the rows of its table."""

    def __init__(self, namespace: str, release: str, image: str, chart: Path = CHART) -> None:
        self.namespace, self.release, self.image, self.chart = namespace, release, image, chart
        self.failed: list[str] = []

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command; give what it printed."""
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if check and done.returncode:
            sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
        return done.stdout

    def fails(self, *command: str) -> str:
        """Run a command that must fail; give its last words."""
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not done.returncode:
            self.failed.append(f"{' '.join(command)} was not refused")
        return done.stderr.strip()

    def kubectl(self, *arguments: str, check: bool = True) -> str:
        """Run kubectl in the release's namespace."""
        return self.run("kubectl", "-n", self.namespace, *arguments, check=check)

    def helm(self, *arguments: str) -> str:
        """Run helm on the release; the chart's defaults but for what is said."""
        return self.upgrade("--install", *MINIMAL, *arguments)

    def upgrade(self, *arguments: str) -> str:
        """Run helm on the release with the chart and the image of now."""
        repository, _, tag = self.image.partition(":")
        image = ["--set", f"image.repository={repository}", "--set", f"image.tag={tag}"]
        place = [self.release, str(self.chart), "-n", self.namespace]
        return self.run("helm", "upgrade", *place, *image, *arguments, "--wait", *PATIENCE)

    def prepare(self) -> None:
        """Make the namespaces, and the stores in theirs."""
        for name in ("stores", self.namespace):
            self.run("kubectl", "create", "namespace", name, check=False)
        enforced = "pod-security.kubernetes.io/enforce=restricted"
        self.run("kubectl", "label", "--overwrite", "namespace", self.namespace, enforced)
        self.run("kubectl", "-n", "stores", "apply", "-f", str(HERE / "stores.yaml"))
        for name in ("kafka", "redis"):
            place = ("-n", "stores", "rollout", "status", f"statefulset/{name}")
            self.run("kubectl", *place, "--timeout=180s")

    def kafka(self, *, away: bool) -> None:
        """Take Kafka away, or bring it back."""
        scale = ("scale", "statefulset/kafka", f"--replicas={int(not away)}")
        self.run("kubectl", "-n", "stores", *scale)
        status = ("rollout", "status", "statefulset/kafka", "--timeout=120s")
        self.run("kubectl", "-n", "stores", *status)

    def ready(self, replicas: int) -> None:
        """Wait until so many replicas serve, and no other pods are left."""
        self.kubectl("rollout", "status", f"statefulset/{self.release}", "--timeout=180s")
        deadline = time.monotonic() + 180
        selector = "app.kubernetes.io/component=relay"
        while True:
            pods = self.kubectl("get", "pods", "-l", selector, "-o", "name").split()
            if len(pods) == replicas:
                return
            if time.monotonic() > deadline:
                sys.exit(f"{len(pods)} pods instead of {replicas}")
            time.sleep(1)

    def send(self) -> None:
        """Start the sender, a pod of relay's image."""
        self.kubectl("delete", "pod", "sender", "--ignore-not-found", "--wait=true")
        self.kubectl("delete", "configmap", "sender", "--ignore-not-found")
        self.kubectl("create", "configmap", "sender", f"--from-file={HERE / 'sender.py'}")
        environment = {
            "URL": f"http://{self.release}/webhook/event",
            "KEY": KEY,
            "TOKEN": TOKEN,
            "BOOTSTRAP": "kafka.stores:9092",
            "PREFIX": "feishu.",
            "RATE": "50",
        }
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "sender"},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 150,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 10001,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "sender",
                        "image": self.image,
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["python3", "/sender/sender.py"],
                        "env": [
                            {"name": name, "value": value} for name, value in environment.items()
                        ],
                        "volumeMounts": [{"name": "sender", "mountPath": "/sender"}],
                        "securityContext": {
                            "allowPrivilegeEscalation": False,
                            "capabilities": {"drop": ["ALL"]},
                        },
                    }
                ],
                "volumes": [{"name": "sender", "configMap": {"name": "sender"}}],
            },
        }
        command = ["kubectl", "-n", self.namespace, "apply", "-f", "-"]
        subprocess.run(command, input=json.dumps(pod), text=True, check=True, capture_output=True)
        self.kubectl("wait", "pod/sender", "--for=condition=Ready", "--timeout=60s")

    def asks(self, url: str) -> str | None:
        """Ask from the sender's pod; nothing if it comes to no answer in time."""
        code = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=3).status)"
        return self.kubectl("exec", "sender", "--", "python3", "-c", code, check=False) or None

    def dual(self) -> bool:
        """Say whether pods of this cluster have addresses of both families."""
        addresses = "jsonpath={.status.podIPs[*].ip}"
        return ":" in self.kubectl("get", "pod", "sender", "-o", addresses)

    def addresses(self) -> str:
        """Say over what relay is asked, and over what it asks Kafka."""
        service = self.kubectl("get", "service", self.release, "-o", "jsonpath={.spec.clusterIPs}")
        code = "print(open('/proc/net/tcp6').read())"
        pod = f"{self.release}-0"
        rows = [
            row.split()
            for row in self.kubectl("exec", pod, "--", "python3", "-c", code).splitlines()
        ]
        places = [row[2].split(":") for row in rows if row and row[3] == "01"]
        mapped = "0000000000000000FFFF0000"
        over = sum(port == f"{9092:04X}" and not ip.startswith(mapped) for ip, port in places)
        return f"the Service is {service}, {over} connections to Kafka over IPv6"

    def counts(self) -> Counts:
        """Read the sender's answers so far."""
        lines = self.kubectl("logs", "sender", "--tail=1", check=False).splitlines()
        return json.loads(lines[-1])["answers"] if lines else {}

    def step(self, name: str, *, refused_allowed: bool = False, rest: float = 5) -> "Step":
        """Begin a step of the table."""
        return Step(self, name, refused_allowed=refused_allowed, rest=rest)

    def finish(self) -> None:
        """Stop the sender and print what it found."""
        self.kubectl("exec", "sender", "--", "python3", "-c", "import os; os.kill(1, 15)")
        deadline = time.monotonic() + 150
        while not (
            found := [
                x for x in self.kubectl("logs", "sender").splitlines() if x.startswith("RESULT ")
            ]
        ):
            if time.monotonic() > deadline:
                sys.exit("the sender came to no result")
            time.sleep(1)
        result = json.loads(found[0].removeprefix("RESULT "))
        print(
            f"\n{result['acknowledged']:,} events acknowledged, {result['lost']} lost,"
            f" {result['twice']} twice."
        )
        print(f"All answers: {result['answers']}.")
        if result["lost"] or result["twice"]:
            self.failed.append(f"events: {result}")


class Step:
    """Measures what the sender was answered while something is done."""

    def __init__(self, walk: Walk, name: str, *, refused_allowed: bool, rest: float) -> None:
        self._walk, self._name = walk, name
        self._refused_allowed, self._rest = refused_allowed, rest

    def __enter__(self) -> None:
        self._before, self._began = self._walk.counts(), time.monotonic()

    def __exit__(self, *error: object) -> None:
        took = time.monotonic() - self._began
        time.sleep(self._rest)
        after = self._walk.counts()
        new = {name: n - self._before.get(name, 0) for name, n in after.items()}
        taken = new.pop("200", 0)
        others = {name: n for name, n in new.items() if n}
        print(f"| {self._name} | {took:.0f} s | {taken} | {others or 'none'} |", flush=True)
        if (others and not self._refused_allowed) or not taken:
            self._walk.failed.append(f"{self._name}: {others}")


def main() -> int:
    """Walk."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--namespace", default="relay")
    parser.add_argument("--release", default="relay")
    parser.add_argument("--image", default="relay:walk")
    parser.add_argument("--before", type=Path, help="an earlier chart, to begin with")
    parser.add_argument("--before-image", default="relay:before")
    options = parser.parse_args()
    walk = Walk(options.namespace, options.release, options.image)
    walk.prepare()
    _begin(walk, options.before, options.before_image)
    _replace(walk)
    _enlarge(walk)
    _lose_kafka(walk)
    _network(walk)
    print(f"| `helm test` | - | - | {_phase(walk)} |")
    _install_again(walk)
    walk.finish()
    for failure in walk.failed:
        print(f"FAILED: {failure}")
    return bool(walk.failed)


def _begin(walk: Walk, before: Path | None, before_image: str) -> None:
    """Install, an earlier chart if there is one, and come to three replicas of this one."""
    image, chart = walk.image, walk.chart
    if before:
        walk.image, walk.chart = before_image, before
    walk.helm()
    walk.ready(1)
    walk.send()
    time.sleep(10)
    print("| step | took | answered 200 | other answers |\n|---|---|---|---|")
    with walk.step("one replica, nothing happens", rest=8):
        pass
    with walk.step("1 to 3 replicas, with claims; the first is replaced"):
        walk.helm(*THREE)
        walk.ready(3)
    if before:
        walk.image, walk.chart = image, chart
        with walk.step("`helm upgrade --reset-then-reuse-values` from the earlier chart and image"):
            walk.upgrade("--reset-then-reuse-values")
            walk.ready(3)


def _replace(walk: Walk) -> None:
    with walk.step("`helm upgrade` of three replicas"):
        walk.helm(*THREE, *DEBUG)
        walk.ready(3)
    with walk.step("a pod deleted"):
        walk.kubectl("delete", "pod", f"{walk.release}-1")
        walk.ready(3)
    with walk.step("a pod killed hard (`--grace-period=0 --force`)", refused_allowed=True):
        walk.kubectl("delete", "pod", f"{walk.release}-2", "--grace-period=0", "--force")
        time.sleep(5)
        walk.ready(3)


def _enlarge(walk: Walk) -> None:
    """Enlarge the volumes as docs/kubernetes.md says."""
    size = LARGER["persistence.size"]
    patch = json.dumps({"spec": {"resources": {"requests": {"storage": size}}}})
    capacities = ("get", "pvc", "-o", "jsonpath={.items[*].status.capacity.storage}")
    settings = ("get", "configmap", walk.release, "-o", "jsonpath={.metadata.resourceVersion}")
    place = (walk.release, str(walk.chart), "-n", walk.namespace)
    with walk.step("a larger size by `helm upgrade` alone: refused, and nothing is written"):
        known = walk.kubectl(*settings)
        said = walk.fails("helm", "upgrade", *place, "--reset-then-reuse-values", *LARGER_VALUES)
        if "persistence.size" not in said or walk.kubectl(*settings) != known:
            walk.failed.append(f"larger by an upgrade alone: {said}")
    revision = json.loads(walk.run("helm", "history", *place[:1], *place[2:], "-o", "json"))[-1]
    with walk.step(f"larger volumes: claims, then the StatefulSet around its pods ({size})"):
        for claim in walk.kubectl("get", "pvc", "-o", "name").split():
            walk.kubectl("patch", claim, "--patch", patch)
        deadline = time.monotonic() + 60
        while set(walk.kubectl(*capacities).split()) != {size}:
            if time.monotonic() > deadline:
                sys.exit("the class of the volumes enlarges none: allowVolumeExpansion?")
            time.sleep(1)
        walk.kubectl("delete", "statefulset", walk.release, "--cascade=orphan")
        walk.helm(*THREE, *DEBUG, *LARGER_VALUES)
        walk.ready(3)
    with walk.step("`helm rollback` to before that fails as it must; an upgrade mends it"):
        walk.fails("helm", "rollback", *place[:1], str(revision["revision"]), *place[2:])
        walk.helm(*THREE, *DEBUG, *LARGER_VALUES)
        walk.ready(3)


def _network(walk: Walk) -> None:
    """Allow what the chart's policy allows; say whether the node refuses the rest."""
    policy = ["--set", "networkPolicy.enabled=true"]
    policy += ["--set", "networkPolicy.metricsFrom[0].podSelector.matchLabels.app=prometheus"]
    with walk.step("NetworkPolicy on: what relay needs passes"):
        walk.helm(*THREE, *DEBUG, *LARGER_VALUES, *policy)
        walk.ready(3)
    refused = walk.asks(f"http://{walk.release}-0.{walk.release}-headless:9090/metrics") is None
    said = "refused" if refused else "answered: this node enforces no policy"
    print(f"| metrics, asked by a pod that the policy does not name | - | - | {said} |", flush=True)


def _lose_kafka(walk: Walk) -> None:
    with walk.step("Kafka's pod away for a minute"):
        walk.kafka(away=True)
        time.sleep(60)
        walk.kafka(away=False)
    with walk.step("down to 1 with a backlog: Kafka is away, two volumes keep theirs"):
        walk.kafka(away=True)
        time.sleep(10)
        walk.helm(*ONE, *DEBUG, *LARGER_VALUES)
        walk.ready(1)
    volumes = walk.kubectl("get", "pvc", "-o", "name").split()
    if len(volumes) != REPLICAS:
        walk.failed.append(f"volumes: {volumes}")
    with walk.step("Kafka back; the volume of replica 2 by the drain job"):
        walk.kafka(away=False)
        walk.helm(
            *ONE,
            *DEBUG,
            *LARGER_VALUES,
            "--set",
            "drainJob.enabled=true",
            "--set",
            "drainJob.ordinal=2",
        )
        job = ("job", "--selector", "relay/drain=2")
        walk.kubectl("wait", *job, "--for=condition=Complete", "--timeout=120s")
    with walk.step("up to 3 again: replica 1 publishes what its volume kept"):
        walk.helm(*THREE, *DEBUG, *LARGER_VALUES)
        walk.ready(3)


def _install_again(walk: Walk) -> None:
    families = ["--set", "service.ipFamilies={IPv6}"] if walk.dual() else []
    over = "; the Service has an IPv6 address only" if families else ""
    name = f"uninstall, and install again on the retained volumes{over}"
    with walk.step(name, refused_allowed=True):
        walk.run("helm", "uninstall", walk.release, "-n", walk.namespace, "--wait")
        walk.helm(*THREE, *LARGER_VALUES, *families)
        walk.ready(3)
    if families:
        with walk.step(f"nothing happens; {walk.addresses()}", rest=8):
            pass


def _phase(walk: Walk) -> str:
    printed = walk.run("helm", "test", walk.release, "-n", walk.namespace, "--logs", check=False)
    if "Succeeded" not in printed:
        walk.failed.append(f"helm test: {printed[-300:]}")
        return "FAILED"
    return "Succeeded: " + printed.strip().splitlines()[-1]


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Shows scheduling on a cluster whose nodes are simulated (kwok): `deploy/walk/nodes.py`.

Wants kubectl and helm with a cluster of three nodes in three zones; nothing of it runs, so neither
images nor stores are needed. Replicas spread over the zones, a drain is held by the disruption
budget, an autoscaler is accepted and scales. Prints Markdown; exit 1 if something is not so.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable

from walk import CLAIMS, REPLICAS, THREE, Walk

#: Seconds until what the cluster does by itself must have happened.
PATIENCE = 60
#: Seconds for which a drain must be held.
HELD = "8s"


def main() -> int:
    """Look."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--namespace", default="relay")
    parser.add_argument("--release", default="relay")
    options = parser.parse_args()
    walk = Walk(options.namespace, options.release, "relay:walk")
    walk.run("kubectl", "create", "namespace", walk.namespace, check=False)
    print("| what | seen |\n|---|---|")
    walk.helm(*THREE)
    walk.ready(REPLICAS)
    check(walk, "three replicas, three zones", *_zones(walk))
    check(walk, "a second node's drain, while a pod waits for a place", *_drain(walk))
    check(walk, "HorizontalPodAutoscaler", *_scaler(walk))
    for failure in walk.failed:
        print(f"FAILED: {failure}")
    return bool(walk.failed)


def check(walk: Walk, what: str, seen: str, well: bool) -> None:  # noqa: FBT001
    """Print a row, and remember what is not as it should be."""
    print(f"| {what} | {seen} |", flush=True)
    if not well:
        walk.failed.append(f"{what}: {seen}")


def _zones(walk: Walk) -> tuple[str, bool]:
    zones = {
        node["metadata"]["name"]: node["metadata"]["labels"]["topology.kubernetes.io/zone"]
        for node in _items(walk.run("kubectl", "get", "nodes", "-o", "json"))
    }
    seen = sorted(zones[node] for node in _places(walk).values())
    return ", ".join(seen), len(set(seen)) == len(seen) == REPLICAS


def _drain(walk: Walk) -> tuple[str, bool]:
    """Drain one node while no other takes its pod, then a second one."""
    places = _places(walk)
    first, second, third = (places[f"{walk.release}-{number}"] for number in range(REPLICAS))
    for node in (first, second, third):
        walk.run("kubectl", "cordon", node)
    options = ("--ignore-daemonsets", "--force", "--delete-emptydir-data")
    walk.run("kubectl", "drain", first, *options, f"--timeout={PATIENCE}s")
    _until(lambda: len(_places(walk)) < REPLICAS, "the evicted pod waits for a place")
    command = ["kubectl", "drain", second, *options, f"--timeout={HELD}"]
    held = subprocess.run(command, capture_output=True, text=True, check=False)
    said = "disruption budget" in held.stdout + held.stderr
    kept = _places(walk).get(f"{walk.release}-1") == second
    walk.run("kubectl", "uncordon", first)
    walk.ready(REPLICAS)
    walk.run("kubectl", "drain", second, *options, f"--timeout={PATIENCE}s")
    for node in (second, third):
        walk.run("kubectl", "uncordon", node)
    walk.ready(REPLICAS)
    well = held.returncode != 0 and said and kept
    return ("held until the first pod is back, then done" if well else held.stderr[-300:]), well


def _scaler(walk: Walk) -> tuple[str, bool]:
    """Install it, and see that the StatefulSet has as many replicas as it asks for."""
    scaled = ("autoscaling.enabled=true", "autoscaling.minReplicas=4", "autoscaling.maxReplicas=6")
    walk.helm(*CLAIMS, *(part for one in scaled for part in ("--set", one)))
    name = f"statefulset/{walk.release}"

    def replicas() -> int:
        return int(walk.kubectl("get", name, "-o", "jsonpath={.spec.replicas}") or 0)

    kept = replicas() >= REPLICAS
    _until(lambda: replicas() == 4, "the autoscaler's least number")  # noqa: PLR2004 - as asked
    _until(lambda: "AbleToScale" in _conditions(walk), "the autoscaler's word")
    able = _conditions(walk)["AbleToScale"]
    seen = f"minReplicas 4: {replicas()} replicas; AbleToScale {able}; never below what ran: {kept}"
    return seen, able == "True" and kept


def _conditions(walk: Walk) -> dict[str, str]:
    (made,) = _items(walk.kubectl("get", "hpa", "-o", "json"))
    return {one["type"]: one["status"] for one in made["status"].get("conditions", ())}


def _places(walk: Walk) -> dict[str, str]:
    """Give the node of each pod that runs."""
    selector = "app.kubernetes.io/component=relay"
    pods = _items(walk.kubectl("get", "pods", "-l", selector, "-o", "json"))
    return {
        pod["metadata"]["name"]: pod["spec"]["nodeName"]
        for pod in pods
        if pod["spec"].get("nodeName") and "deletionTimestamp" not in pod["metadata"]
    }


def _items(text: str) -> list[dict]:
    return json.loads(text)["items"]


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"not within {PATIENCE} s: {what}")
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(main())

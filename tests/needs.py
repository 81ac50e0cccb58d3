"""What tests want of the machine besides Python: commands, and the Debian package that has each."""

import os
import shutil

from tests import kafka_server

#: Command to package; `.ci/run` installs the same ones.
PACKAGES = {
    "redis-server": "redis-server",
    "java": "default-jdk-headless",
    "javac": "default-jdk-headless",
    "mvn": "maven",
    "go": "golang-go",
    "node": "nodejs",
    "npm": "npm",
    "promtool": "prometheus",
    "docker-compose": "docker-compose",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "haproxy": "haproxy",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
}


def missing() -> list[str]:
    """Say what will be skipped on this machine, and what brings it back."""
    said = [
        f"no {command}: its tests are skipped; package {package}"
        for command, package in PACKAGES.items()
        if shutil.which(command) is None
    ]
    if reason := kafka_server.available():
        said.append(f"no Kafka ({reason}): its tests are skipped, or name one: RELAY_TEST_KAFKA")
    if os.geteuid() != 0:
        said.append("not root: tests that mount, or make namespaces, are skipped")
    return said

"""Lists what is in an image, in CycloneDX 1.6: `deploy/sbom.py ROOT` prints JSON.

Read from the root file system itself: relay and its libraries from their metadata, the system's
packages from dpkg's. It has no time and no random number: the same image gives the same text.
"""

import json
import sys
import uuid
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

Json = dict[str, Any]
#: The distribution that the image is about.
RELAY = "feishu-relay"
SPEC = "1.6"


def bom(root: Path) -> Json:
    """List an image's root file system; the parts in the order of their names."""
    parts = sorted([*_python(root), *_debian(root)], key=lambda part: part["bom-ref"])
    (relay,) = [part for part in parts if part["name"] == RELAY]
    others = [part for part in parts if part is not relay]
    listed = {
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "version": 1,
        "metadata": {"component": relay | {"type": "application"}},
        "components": others,
        "dependencies": [
            {"ref": relay["bom-ref"], "dependsOn": [part["bom-ref"] for part in others]}
        ],
    }
    # Of the content: another list has another number.
    number = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(listed, sort_keys=True))
    return listed | {"serialNumber": number.urn}


def _python(root: Path) -> Iterator[Json]:
    """Give each distribution of the environment that relay runs in."""
    for path in root.glob("opt/relay/lib/python3*/site-packages/*.dist-info/METADATA"):
        headers = HeaderParser().parsestr(path.read_text(encoding="utf-8"))
        name, version = headers["Name"].lower().replace("_", "-"), headers["Version"]
        part = _part(name, version, f"pkg:pypi/{quote(name)}@{quote(version)}")
        if expression := headers["License-Expression"]:
            part["licenses"] = [{"expression": expression}]
        yield part


def _debian(root: Path) -> Iterator[Json]:
    """Give each package that dpkg has installed."""
    status = root / "var/lib/dpkg/status"
    system = _system(root)
    for block in status.read_text(encoding="utf-8").split("\n\n") if status.exists() else ():
        fields = HeaderParser().parsestr(block)
        if not (fields["Status"] or "").endswith(" installed"):
            continue
        name, version, arch = fields["Package"], fields["Version"], fields["Architecture"]
        place = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={arch}&distro={system}"
        yield _part(name, version, place)


def _system(root: Path) -> str:
    lines = (root / "etc/os-release").read_text(encoding="utf-8").splitlines()
    fields = dict(line.replace('"', "").split("=", 1) for line in lines if "=" in line)
    return f"{fields['ID']}-{fields['VERSION_ID']}"


def _part(name: str, version: str, purl: str) -> Json:
    return {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}


if __name__ == "__main__":
    print(json.dumps(bom(Path(sys.argv[1])), indent=2))

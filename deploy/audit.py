"""Asks pip-audit about the locked requirements: `make audit`.

A known vulnerability fails; a service that cannot be reached is said loudly, and the check goes on.
"""

import json
import subprocess
import sys
from typing import Any

Json = dict[str, Any]

LOUD = """
!!! The dependencies were NOT audited: pip-audit could not reach its data.
!!! {reason}
"""


def main() -> int:
    """Audit `sys.argv[2]` with the command `sys.argv[1]`."""
    command = [sys.argv[1], "--disable-pip", "--require-hashes", "-r", sys.argv[2], "-f", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=180)
    try:
        dependencies = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        print(LOUD.format(reason=lines[-1] if lines else f"exit code {done.returncode}"))
        return 0
    found = [(one, flaw) for one in dependencies for flaw in one.get("vulns", ())]
    for one, flaw in found:
        repaired = ", ".join(flaw["fix_versions"]) or "none"
        print(f"{one['name']} {one['version']}: {flaw['id']}; repaired in: {repaired}")
    print(f"{len(dependencies)} dependencies audited, {len(found)} known vulnerabilities")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())

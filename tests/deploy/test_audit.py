"""`make audit`: a known vulnerability fails; data that cannot be reached is said, loudly."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.tools import ROOT

FLAW = {"id": "GHSA-1", "fix_versions": ["2.0"], "aliases": [], "description": ""}


def audit(path: Path, printed: str, code: int) -> subprocess.CompletedProcess[str]:
    """Run the check with a pip-audit that prints this."""
    command = path / "pip-audit"
    command.write_text(f"#!/bin/sh\ncat <<'END'\n{printed}\nEND\necho no route >&2\nexit {code}\n")
    command.chmod(0o755)
    return subprocess.run(
        [sys.executable, str(ROOT / "deploy" / "audit.py"), str(command), "requirements.txt"],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("flaws", "code"), [([], 0), ([FLAW], 1)])
def test_known_vulnerability_fails(flaws: list[object], code: int, tmp_path: Path) -> None:
    found = {"dependencies": [{"name": "a", "version": "1.0", "vulns": flaws}], "fixes": []}
    done = audit(tmp_path, json.dumps(found), code)
    assert done.returncode == code
    assert ("a 1.0: GHSA-1; repaired in: 2.0" in done.stdout) is bool(code)


def test_unreachable_data_is_said_loudly(tmp_path: Path) -> None:
    done = audit(tmp_path, "", 1)
    assert done.returncode == 0
    assert "NOT audited" in done.stdout
    assert "no route" in done.stdout

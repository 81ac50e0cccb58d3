"""`relay dev` as a person starts it, in a pipe."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

#: Seconds until the first event, at the best of so many attempts: others run beside it.
WITHIN, ATTEMPTS = 5.0, 4


@contextmanager
def relay_dev(tmp_path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Start the command with a temporary directory of its own."""
    command = [sys.executable, "-c", "from relay.cli.main import main; main()", "dev", *arguments]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path), "PYTHONUTF8": "1"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def until(process: subprocess.Popen[str], start: str) -> str:
    """Read up to the first line that begins so."""
    assert process.stdout is not None
    return next(line for line in process.stdout if line.startswith(start))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_event_comes_within_5_s_and_a_signal_stops_it_clean(
    tmp_path: Path, number: signal.Signals
) -> None:
    took: list[float] = []
    while len(took) < ATTEMPTS and min(took, default=WITHIN) >= WITHIN:
        begun = time.monotonic()
        with relay_dev(tmp_path, "--seed", "1") as process:
            assert "helpdesk.ticket" in until(process, "out ")
            took.append(time.monotonic() - begun)
            process.send_signal(number)
            out, err = process.communicate(timeout=15)
            assert process.returncode == 0
            assert err == ""
            assert "✓" in out.splitlines()[-2]
        assert list(tmp_path.iterdir()) == []
    assert min(took) < WITHIN


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_the_printed_curl_command_brings_an_event_to_the_topic(tmp_path: Path) -> None:
    with relay_dev(tmp_path, "--rate", "1") as process:
        assert process.stdout is not None
        command = until(process, "curl ")
        while not command.rstrip().endswith("}}}'"):
            command += next(process.stdout)
        sent = subprocess.run(["sh", "-c", command], capture_output=True, check=True, timeout=10)
        assert sent.stdout == b'{"msg":"success"}'
        assert any("created by me" in line for line in process.stdout)


def test_it_ends_when_nobody_reads_any_more(tmp_path: Path) -> None:
    """As in `relay dev | head`."""
    with relay_dev(tmp_path, "--rate", "50") as process:
        until(process, "out ")
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=15) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert list(tmp_path.iterdir()) == []


def test_both_transports_feed_one_topic(tmp_path: Path) -> None:
    with relay_dev(
        tmp_path, "--long-connection", "--rate", "8", "--duration", "4", "--seed", "1"
    ) as process:
        out, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, "")
    assert "acknowledged 200" in out
    assert "200 OK" in out
    assert "✓" in out.splitlines()[-2]
    assert "TWICE" not in out

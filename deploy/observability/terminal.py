"""Makes the picture of `make dev`'s terminal: the last screen of a run of a dozen seconds.

    python -m deploy.observability.terminal docs/images/dev.svg

The command runs on a terminal of its own; what it drew there becomes an SVG with no font, script
or address in it.
"""

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROWS, COLUMNS = 30, 110
COMMAND = (sys.executable, "-m", "relay", "dev", "--duration", "14", "--seed", "11", "--rate", "4")
#: Where a full-screen view draws anew, and where it ends.
HOME, END = "\x1b[H", "\x1b[?1049l"
PICTURE = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px;
}}
.{unique_id}-title {{ font: bold 18px sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def drawn() -> str:
    """Run the command on a terminal; give everything that it wrote there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    env = {**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"}
    process = subprocess.Popen(COMMAND, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    parts = []
    try:
        while part := os.read(ours, 65536):
            parts.append(part)
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(ours)
    if process.wait():
        raise SystemExit(f"ended with {process.returncode}")
    return b"".join(parts).decode()


def main() -> None:
    """Write the picture to the file that is named."""
    frame = drawn().partition(END)[0].rpartition(HOME)[2]
    console = Console(
        record=True,
        width=COLUMNS,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
    )
    for line in frame.splitlines()[:ROWS]:
        console.print(Text.from_ansi(line), no_wrap=True, overflow="crop")
    picture = console.export_svg(
        title="make dev", theme=MONOKAI, code_format=PICTURE, unique_id="dev"
    )
    Path(sys.argv[1]).write_text(picture)


if __name__ == "__main__":
    main()

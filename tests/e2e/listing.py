"""Runs relay; at its end its modules are written down: `... listing FILE -- serve`."""

import atexit
import sys
from pathlib import Path


def main() -> None:
    """Be `relay`."""
    place = Path(sys.argv[1])
    atexit.register(lambda: place.write_text("\n".join(sys.modules)))
    from relay.cli import main as cli  # noqa: PLC0415 - as the command does

    sys.argv = ["relay", *sys.argv[3:]]
    cli.main()


if __name__ == "__main__":
    main()

"""Entry point of the command `irstd` and of `python -m irstd`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; an error of irstd becomes one line and its exit status."""
    from irstd.cli import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()

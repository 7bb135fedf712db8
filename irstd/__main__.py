"""Entry point of the command `irstd` and of `python -m irstd`."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Run the command line; an error of irstd becomes one line and its exit status."""
    from irstd.cli import run

    try:
        status = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        # Who read has had enough, as `head` does: nothing to tell, and Python itself is not to flush at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 128 + signal.SIGPIPE
    sys.exit(status)


if __name__ == "__main__":
    main()

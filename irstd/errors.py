"""The two ways in which a command ends badly, each with one line for the user.

`InputError` is the user's to mend (exit status 2); `WorkError` is a failure of the work itself (exit status 1).
Both are raised with a message that says what, where, and what to do; the command line prints it without a traceback
unless `--debug` is given.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class IrstdError(Exception):
    """Base of the errors that are shown as one line."""

    status = 1


class InputError(IrstdError, ValueError):
    """Bad input or usage: exit status 2."""

    status = 2


class NonFinite(InputError):
    """Somebody's network gives what is no number; in the midst of a training it is the training's fault."""


class WorkError(IrstdError, RuntimeError):
    """The work failed, or a check did not hold: exit status 1."""

    status = 1


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """ " (did you mean 'x'?)" for the known name nearest to `name`, `prefix` before it, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {prefix + close[0]!r}?)" if close else ""

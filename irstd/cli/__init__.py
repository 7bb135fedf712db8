"""The command line: one command for each arrow, a thin face over `irstd.commands`.

Heavy imports live in the functions, so that `irstd --help` answers at once.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from irstd.cli import bench, data, models, stack, training, weights, workspace
from irstd.errors import IrstdError

app = typer.Typer(
    name="irstd",
    help="Data sets and training for infrared small-target detection: raw video in, registered detectors out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for part in (stack, data, training, models, workspace):
    app.add_typer(part.app)
app.add_typer(weights.app, name="weights")
app.add_typer(bench.app, name="bench")


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="show a traceback with an error")] = False,
) -> None:
    """Options of every command."""


def run(arguments: list[str]) -> int:
    """Run a command line and return the exit status: 0 done, 1 the work failed, 2 bad input or usage."""
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        found = app(arguments, standalone_mode=False)
        return found if isinstance(found, int) else 0
    except IrstdError as error:
        if debug:
            raise
        print(f"irstd: {error}", file=sys.stderr)
        return error.status
    except typer.exceptions.TyperException as error:
        message = error.format_message()
        if not message or message.startswith("Usage:"):  # no arguments: the help is the answer
            print(message)
        else:
            print(f"irstd: {message[0].lower() + message[1:]} (irstd --help)", file=sys.stderr)
        return 2
    except typer.Exit as error:
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        print("irstd: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:
        if debug:
            raise
        line = (str(error).strip().splitlines() or [""])[0]
        print(f"irstd: unexpected {type(error).__name__}: {line} (add --debug for the traceback)", file=sys.stderr)
        return 1

"""`irstd up | down | status | run FLOW`."""

from __future__ import annotations

from irstd.workspace import Workspace


def up(workspace: Workspace) -> None:
    from irstd import stack

    stack.up(workspace)


def down(workspace: Workspace) -> None:
    from irstd import stack

    stack.down(workspace)


def status(workspace: Workspace) -> None:
    from irstd import stack

    stack.status(workspace)

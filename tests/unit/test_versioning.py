"""What DVC says, as one line that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from irstd import versioning
from irstd.errors import InputError
from irstd.workspace import Workspace


def test_params_that_dvc_cannot_read_are_named_with_their_place(tmp_path: Path) -> None:
    """PyYAML reads a bare colon within brackets, DVC's YAML 1.2 does not."""
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    (tmp_path / "dvc.yaml").write_text("stages:\n  shard:\n    cmd: 'true'\n    params: [shard]\n")
    (tmp_path / "params.yaml").write_text("shard:\n  waive: [mine:frozen]\n")
    with pytest.raises(InputError, match=r"'params.yaml'.* line 2, column 15: .*quotes around") as refused:
        versioning.dvc(Workspace(tmp_path, tmp_path / ".irstd"), "repro", "-s", "shard")
    assert "\n" not in str(refused.value)

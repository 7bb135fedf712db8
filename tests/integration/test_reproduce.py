"""Seeds in one command, and a registered model trained again from its commit, with the real DVC, Ray and MLflow."""

from __future__ import annotations

import json

import pytest

from tests.integration.conftest import git, irstd
from tests.integration.test_road import TINY, last

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:The ..noload.. loader:DeprecationWarning")]


def test_seeds_are_trained_and_the_registered_one_is_reproduced_to_the_bit(workspace):
    git(workspace, "add", "-A")
    git(workspace, "commit", "--quiet", "--allow-empty", "-m", "data")
    call = ["train", "ggl-net", "--recipe", "recipes/demo.yaml", "--workers", "1", *TINY, "seeds=[0,3]"]
    done = irstd(workspace, *call)
    assert "seed 0 (1 of 2)" in done.stdout and "deviation (n-1)" in done.stdout
    model = last(done)["model"]
    (path,) = (workspace / ".irstd" / "seeds").glob("*/seeds.json")
    assert len(set(json.loads(path.read_text())["runs"])) == 2
    again = irstd(workspace, *call)
    assert again.stdout.count("trained before, nothing has changed") == 2 and last(again)["model"] == model

    done = irstd(workspace, "reproduce", model, timeout=540)
    found = last(done)
    assert found["reproduced"] and found["exact"] and not found["broken"] and not found["differs"], done.stdout
    for link in ("commit", "data.dvc", "shards of sample", "code", "packages", "trained on", "weights", "numbers"):
        assert f"holds   {link}: " in done.stdout or f"holds   {link}\n" in done.stdout, link
    assert not list((workspace / ".irstd" / "reproduce").iterdir())

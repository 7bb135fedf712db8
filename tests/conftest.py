"""A tiny set that many tests share: made, ingested and sharded once. Change copies of it only."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

# The networks of the tests are tiny: a second thread only waits for the first, here and in all processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from xdist.scheduler import LoadFileScheduling

from irstd.config import ShardConfig
from irstd.data import shards
from irstd.data.ingest import ingest
from irstd.data.synthetic import Scene, SceneSpec, render, write_source

# Tests that call DVC by itself do not call home either.
os.environ.setdefault("DVC_NO_ANALYTICS", "1")

_ROAD = ("flows", "mission", "reproduce", "road", "stack", "third_party", "tracking_away")
RAY = ("cluster", *(f"integration/test_{name}.py" for name in _ROAD))
"""Tests that start Ray, Prefect's server or both."""


class OneRay(LoadFileScheduling):
    """Files go side by side, and those that start Ray one after the other: one Ray on a machine."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        place = Path(file).relative_to("tests")
        return "ray" if any(place.is_relative_to(each) for each in RAY) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneRay | None:
    return OneRay(config, log) if config.getoption("dist") == "loadfile" else None


# Each is a group of its own. Two sizes, lengths below, at and across the chunk borders, one without
# targets, one whose labels are taken away.
_LENGTHS = {"a": 11, "b": 9, "c": 4, "d": 6, "e": 7, "f": 1, "g": 10, "empty": 8, "dark": 5}
UNLABELLED = "dark"
UNLABELLED_FRAME = ("b", 3)  # inside a labelled sequence
CONFIG = ShardConfig(frames=5, chunk=4)


def _spec(index: int, name: str, frames: int) -> SceneSpec:
    height, width = (40, 32) if name == "g" else (34, 46)
    return SceneSpec(
        height=height,
        width=width,
        frames=frames,
        fps=25.0,
        seed=index,
        kind="clouds",
        offset=3000 + 100 * index,
        span=100,
        targets=0 if name == "empty" else 2,
    )


@pytest.fixture(scope="session")
def sample_scenes() -> dict[str, Scene]:
    """What the sequences of `sample_data` hold by construction: frames, masks, boxes, points."""
    return {name: render(_spec(i, name, frames)) for i, (name, frames) in enumerate(_LENGTHS.items())}


@pytest.fixture(scope="session")
def sample_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recordings of `sample_data` and their labels, as someone would bring them."""
    source = tmp_path_factory.mktemp("sample") / "source"
    write_source(source, {name: _spec(i, name, frames) for i, (name, frames) in enumerate(_LENGTHS.items())})
    (source / f"{UNLABELLED}.annotations.json").unlink()
    name, index = UNLABELLED_FRAME
    path = source / f"{name}.annotations.json"
    labels = json.loads(path.read_text())
    labels["frames"][index] = {"index": index, "labelled": False}
    path.write_text(json.dumps(labels))
    return source


@pytest.fixture(scope="session")
def sample_data(sample_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `data/` with the set `sample`: 14-bit videos, of which one is unlabelled."""
    folder = tmp_path_factory.mktemp("sample")
    ingest(sample_source, "sample", folder / "data", folder / "staging")
    return folder / "data"


@pytest.fixture(scope="session")
def sample_shards(sample_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards of `sample_data`: clips of up to 5 frames, 4 key frames in a sample."""
    folder = tmp_path_factory.mktemp("sample") / "shards"
    shards.build(sample_data, folder, CONFIG)
    return folder


@pytest.fixture(scope="session", autouse=True)
def quick_databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow walks through all its migrations for a new database, for seconds: here it does so once, the others are copies."""
    from irstd.registry import tracking

    original, first = tracking._mlflow, tmp_path_factory.mktemp("mlflow") / "mlflow.db"

    def copied(uri: str) -> Any:
        mlflow, place = original(uri), Path(uri.removeprefix("sqlite:///"))
        if uri.startswith("sqlite:///") and not place.exists():
            if not first.exists():
                mlflow.MlflowClient(f"sqlite:///{first}", f"sqlite:///{first}")
            place.parent.mkdir(parents=True, exist_ok=True)
            copy = place.with_name(f".{os.getpid()}-{threading.get_ident()}.db")
            shutil.copy(first, copy)
            with suppress(FileExistsError):  # another process was there first
                os.link(copy, place)
            copy.unlink()
        return mlflow

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracking, "_mlflow", copied)
        yield

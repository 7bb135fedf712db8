"""`--shards DIR`: another set's shards are trained on and evaluated as they are; where they lie decides nothing."""

from __future__ import annotations

import os
import shutil
import threading
import weakref
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from irstd import cli
from irstd import config as configuration
from irstd.commands import evaluate, scores, train, tune
from irstd.data import shards
from irstd.data.ingest import ingest
from irstd.data.manifest import read_all
from irstd.data.synthetic import SceneSpec, write_source
from irstd.errors import InputError
from irstd.files import canonical_json, read_json, sha256_file
from irstd.inference import package
from irstd.inference.detector import Detector
from irstd.metrics import pd_at_fa
from irstd.models import build_model, classical
from irstd.models.contract import state
from irstd.registry import models, promotion, verification
from irstd.training import loop
from irstd.training.identity import identity
from irstd.workspace import Workspace
from tests.unit.test_derive import stripped

# Within MLflow's own store, at its import.
pytestmark = pytest.mark.filterwarnings("ignore:The ..noload.. loader:DeprecationWarning")
OPTIONS = {"model.width": 4, "model.in_channels": 1, "train.batch": 4}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Shards of a set that no workspace knows, 8 bits, no gradient maps."""
    folder = tmp_path_factory.mktemp("elsewhere")
    specs = {
        name: SceneSpec(
            height=36,
            width=40,
            frames=5,
            fps=25.0,
            seed=50 + i,
            kind="clouds",
            offset=60,
            span=60,
            bit_depth=8,
            targets=1,
        )
        for i, name in enumerate("abcdef")
    }
    write_source(folder / "source", specs)
    ingest(folder / "source", "other", folder / "data", folder / "staging")
    config = configuration.ShardConfig(frames=1, chunk=4, gradient={"operator": "none"})
    shards.build(folder / "data", folder / "shards", config)
    return folder / "shards"


@pytest.fixture
def workspace(tmp_path):
    """One without shards of its own."""
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "data.dvc").touch()
    return Workspace(tmp_path / "w", tmp_path / "w" / ".irstd")


def packaged(folder: Path, place: Path, seed: int = 0, threshold: float = 0.5, **more: str) -> package.Package:
    """An untrained network as if trained on the shards at `place`."""
    torch.manual_seed(seed)
    config = configuration.load(overrides=OPTIONS | {"train.seed": seed, "evaluate.threshold": threshold} | more)
    manifests = read_all(place)
    made = identity(config, manifests)
    weights = folder.parent / f"{folder.name}.safetensors"
    save_file(state(build_model(config)), weights)
    chain = {
        "run": made.name,
        "identity": made.hash,
        "code": made.content["code"],
        "sets": {m.set: m.digest for m in manifests},
        "git_commit": None,
        "data_md5": None,
        "weights_sha256": sha256_file(weights),
    }
    return package.write(folder, weights, config, manifests, chain, {"chosen": "val-best"})


def test_weights_are_copied_as_they_are(tmp_path, elsewhere):
    """Their hash is that of the checkpoint, whatever a writer would make of the tensors."""
    made = packaged(tmp_path / "p", elsewhere)
    weights = tmp_path / "p" / "weights.safetensors"
    assert sha256_file(weights) == made.content["lineage"]["weights_sha256"]
    odd = tmp_path / "odd.safetensors"
    save_file(load_file(weights), odd, metadata={"order": "another"})
    again = package.write(tmp_path / "q", odd, made.config, read_all(elsewhere), {}, {})
    assert (again.folder / "weights.safetensors").read_bytes() == odd.read_bytes() != weights.read_bytes()


def test_where_shards_lie_decides_nothing(elsewhere, tmp_path):
    config = configuration.load(overrides=OPTIONS)
    shutil.copytree(elsewhere, tmp_path / "copy")
    one, other = train.prepare(config, elsewhere), train.prepare(config, tmp_path / "copy")
    assert one.identity == other.identity and other.shards == tmp_path / "copy"
    assert str(tmp_path) not in canonical_json(other.identity.content)


def test_shards_behind_a_url_train_the_same_run(elsewhere, workspace, tmp_path, monkeypatch):
    """Over a real server; the tars are kept in the workspace's cache."""
    monkeypatch.setenv("IRSTD_CACHE", workspace.environment()["IRSTD_CACHE"])
    config = configuration.load(overrides=OPTIONS | {"train.epochs": 1})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(elsewhere)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        place = workspace.shards_at(f"http://127.0.0.1:{server.server_port}")
        assert train.prepare(config, place).identity == train.prepare(config, elsewhere).identity
        found = loop.fit(config, place, lambda metrics, state: None, log=lambda line: None)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    there = loop.fit(config, elsewhere, lambda metrics, state: None, log=lambda line: None)
    assert found["loss"] == there["loss"]
    assert {p.stat().st_size for p in (workspace.home / "cache" / "shards").rglob("*.tar")}
    with pytest.raises(InputError, match=r"^--shards http://x/y: this command reads the tars themselves"):
        workspace.shards_in("http://x/y")


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_a_folder_that_holds_no_sets_is_refused(workspace, elsewhere, tmp_path, monkeypatch):
    assert workspace.shards_at(None) == workspace.shards
    assert workspace.shards_at(elsewhere) == elsewhere
    with pytest.raises(
        InputError, match=r"^--shards \S*/none: no shards here, no such folder; build them with irstd shard"
    ):
        workspace.shards_at(tmp_path / "none")
    with pytest.raises(InputError, match=f"is the folder of one set; give the one above it, {elsewhere}$"):
        workspace.shards_at(elsewhere / "other")


@pytest.mark.parametrize(
    "command",
    [
        ["train", "ggl-net"],
        ["tune", "demo"],
        ["evaluate", "{package}"],
        ["promote", "models:/m@challenger"],
        ["lineage", "{package}", "--verify"],
        ["bench", "loader"],
        ["bench", "train"],
    ],
    ids=lambda c: "-".join(c[:2]) if c[0] == "bench" else c[0],
)
def test_every_command_that_reads_shards_takes_them(command, workspace, elsewhere, tmp_path, monkeypatch, capsys):
    """The folder of one set is refused by each with the same line, so each has looked at it."""
    monkeypatch.chdir(workspace.root)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    repository = Path(configuration.__file__).parents[2]
    shutil.copytree(repository / "tune_spaces", workspace.root / "tune_spaces")
    shutil.copytree(repository / "recipes", workspace.root / "recipes")
    filled = [part.format(package=tmp_path / "p") for part in command]
    packaged(tmp_path / "p", elsewhere)
    assert cli.run([*filled, "--shards", str(elsewhere / "other")]) == 2
    assert "is the folder of one set" in capsys.readouterr().err


def test_another_sets_shards_are_evaluated_as_they_are(workspace, sample_shards, elsewhere, tmp_path, capsys):
    """A model of the set `sample` on the set `other`, which it has never heard of; the whole split, by its digest."""
    packaged(tmp_path / "p", sample_shards)
    out = tmp_path / "numbers.json"
    evaluate.run(workspace, str(tmp_path / "p"), [], "test", elsewhere, out)
    found = read_json(out)
    (manifest,) = read_all(elsewhere)
    assert found["digests"] == {"other": manifest.digest}
    assert found["frames"] == manifest.count("test", "labelled") > 0
    assert f"split test of other {manifest.digest[:12]}" in capsys.readouterr().out
    with pytest.raises(InputError, match="no shards of a set 'sample'"):
        evaluate.run(workspace, str(tmp_path / "p"), ["data.sets=[sample]"], "test", elsewhere, None)


def test_promotion_and_lineage_find_shards_elsewhere(workspace, elsewhere, tmp_path, monkeypatch):
    made = {"1": packaged(tmp_path / "1", elsewhere, seed=1), "2": packaged(tmp_path / "2", elsewhere, seed=2)}
    monkeypatch.setattr(models, "package", lambda _, uri: made[uri.rpartition("/")[2]])
    one, two = (SimpleNamespace(name="m", version=v) for v in "12")
    verdict = promotion.compare(workspace, two, one, elsewhere)
    assert verdict.split in ("gate", "val") and verdict.champion["images"] == verdict.challenger["images"] > 0
    with pytest.raises(InputError, match="no shards here"):
        promotion.compare(workspace, two, one, workspace.shards)
    links = dict(verification.verify(workspace, made["1"], None, elsewhere))
    assert links["shards of other"] is None and links["configuration"] is None and links["weights"] is None
    assert "no such file" in dict(verification.verify(workspace, made["1"], None, workspace.shards))["shards of other"]


def test_promotion_reports_no_iou_from_pseudo_masks(sample_source, tmp_path, monkeypatch):
    ingest(stripped(sample_source, tmp_path / "source", "boxes"), "sample", tmp_path / "data", tmp_path / "staging")
    place = tmp_path / "shards"
    shards.build(tmp_path / "data", place, configuration.ShardConfig(derive={"masks": "box"}))
    made = {v: packaged(tmp_path / v, place, seed=int(v)) for v in "12"}
    monkeypatch.setattr(models, "package", lambda _, uri: made[uri.rpartition("/")[2]])
    one, two = (SimpleNamespace(name="m", version=v) for v in "12")
    verdict = promotion.compare(SimpleNamespace(), two, one, place)
    assert "pseudo-masks" in verdict.reason and not any(letter.isdigit() for letter in verdict.reason)
    for row in verdict.challenger, verdict.champion:
        assert row["iou"] is None and row["niou"] is None and "no IoU" in row["withheld"]


def test_a_search_for_the_best_iou_is_refused_where_masks_are_pseudo_masks(sample_source, workspace, tmp_path):
    """Before anything is trained: no trial would report one."""
    ingest(stripped(sample_source, tmp_path / "source", "boxes"), "sample", tmp_path / "data", tmp_path / "staging")
    shards.build(tmp_path / "data", tmp_path / "shards", configuration.ShardConfig(derive={"masks": "box"}))
    repository = Path(configuration.__file__).parents[2]
    for name in "tune_spaces", "recipes":
        shutil.copytree(repository / name, workspace.root / name)
    with pytest.raises(InputError, match=r"no trial can report val_iou: .* pseudo-masks \(box\).*metric to pd"):
        tune.search(workspace, "demo", {"data.sets": ["sample"], "train.batch": 2}, shards=tmp_path / "shards")


def test_a_long_split_is_scored_without_being_held(sample_shards, tmp_path, monkeypatch):
    """Of each pass over the frames only one frame and one response live at a time."""
    made = packaged(tmp_path / "p", sample_shards, threshold=1.0)  # marks nothing: the baselines are compared
    alive: list[weakref.ref] = []
    most = 0

    def traced(operator):
        def response(frame_HW):
            nonlocal most
            found = operator(frame_HW)
            alive.append(weakref.ref(found))
            most = max(most, sum(one() is not None for one in alive))
            return found

        return response

    whole = evaluate.score(made, sample_shards, "train", ["sample"])
    monkeypatch.setattr(classical, "CLASSICAL", {k: traced(v) for k, v in classical.CLASSICAL.items()})
    again = evaluate.score(made, sample_shards, "train", ["sample"])
    assert again == whole and whole["frames"] > 8
    assert 0 < most <= 2
    assert [b["method"] for b in whole["baselines"]] == ["top-hat", "local-contrast"]
    # Every pass saw the same frames: the numbers are those of the frames held in lists.
    config = made.config
    items = list(loop.loader_for(config, sample_shards, "train", read_all(sample_shards), batch_size=1))
    sizes = [tuple(b["size"][0]) for b in items]
    frames = [b["frames"][0, -1, :h, :w] for b, (h, w) in zip(items, sizes, strict=True)]
    masks = [b["masks"][0, :h, :w] for b, (h, w) in zip(items, sizes, strict=True)]
    for baseline in whole["baselines"]:
        point = pd_at_fa([classical.CLASSICAL[baseline["method"]](f) for f in frames], masks, 0.0)
        assert (baseline["pd"], baseline["fa"]) == (point.pd, point.fa)


def test_a_model_that_marks_everything_is_not_compared(sample_shards, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(scores, "COMPARABLE", 10)
    found = evaluate.score(packaged(tmp_path / "p", sample_shards, threshold=0.0), sample_shards, "test", ["sample"])
    assert found["baselines"] == [] and found["protocols"][0]["fa"] > 0.5
    scores.show(found)
    assert "no classical baselines beside it" in capsys.readouterr().out


def test_other_shards_are_measured_with_the_model_s_own_statistics(elsewhere, sample_shards, tmp_path, monkeypatch):
    """The rule `dataset` is of the data that the model was trained on, as where it detects."""
    made = packaged(tmp_path / "p", sample_shards, threshold=0.0, **{"data.intensity": "dataset"})
    seen = []
    frames = evaluate.frames_of
    monkeypatch.setattr(evaluate, "frames_of", lambda loader: (seen.append(item[0]) or item for item in frames(loader)))
    evaluate.score(made, elsewhere, "test", ["other"])
    batch = Detector(made)._batch(seen[0]["frames"][:, 0], 8, {})
    for batch_seen in seen:
        assert (batch_seen["offset"], batch_seen["scale"]) == (batch["offset"], batch["scale"])

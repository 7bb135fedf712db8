"""What is the same view is found, what only looks alike is not; our splits refuse it, published ones count it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from recordings import shared, write_image, write_video

from irstd.config import ShardConfig, SplitConfig
from irstd.data import appearance, duplicates, sequence, shards, splits
from irstd.data.ingest import ingest
from irstd.data.synthetic import SceneSpec, render
from irstd.data.video import frames_at
from irstd.errors import InputError
from irstd.files import read_json


def scene(seed: int, kind: str = "clouds") -> np.ndarray:
    """uint8 [120, 160]: structured, with two targets."""
    spec = SceneSpec(height=120, width=160, frames=1, fps=25.0, seed=seed, kind=kind, offset=3000, span=800, targets=2)
    counts_HW = render(spec).frames_THW[0].astype(np.float64)
    low, high = np.percentile(counts_HW, [0.5, 99.5])
    return np.clip((counts_HW - low) / (high - low) * 180 + 30, 0, 255).astype(np.uint8)


def again(image_HW: np.ndarray, shift: int = 12) -> np.ndarray:
    """The same view: moved, brighter, and encoded again with loss."""
    moved_HW = cv2.convertScaleAbs(image_HW[shift // 2 :, shift:], alpha=1.1, beta=7)
    return cv2.imdecode(cv2.imencode(".jpg", moved_HW, [cv2.IMWRITE_JPEG_QUALITY, 75])[1], cv2.IMREAD_GRAYSCALE)


def alike(a_HW: np.ndarray, b_HW: np.ndarray) -> bool:
    views = [appearance.view(a_HW), appearance.view(b_HW)]
    found = appearance.candidates(views, np.arange(2))
    return any(appearance.similarity(*views, shift) >= appearance.SAME for _, _, _, shift in found)


SCENES = [scene(seed) for seed in range(12)]


def test_the_same_view_is_found() -> None:
    assert all(alike(image, again(image)) for image in SCENES)
    assert all(alike(image, image.astype(np.uint16) * 20 + 3000) for image in SCENES)


def test_other_views_are_not() -> None:
    views = [appearance.view(image) for image in SCENES]
    found = appearance.candidates(views, np.arange(len(views)))
    assert not [pair for *pair, shift in found if appearance.similarity(*(views[i] for i in pair[1:]), shift) >= 0.6]
    # Views of one part are not compared.
    assert not [*appearance.candidates([views[0], views[0]], np.zeros(2, int))]
    assert len([*appearance.candidates([views[0], views[0]], np.arange(2))]) == 1


def test_noise_on_a_flat_sky_and_a_common_horizon_are_no_likeness() -> None:
    rng = np.random.default_rng(0)
    flat = [np.clip(rng.normal(90, 3, (120, 160)), 0, 255).astype(np.uint8) for _ in range(4)]
    assert not any(appearance.view(image).structured for image in flat)
    assert not appearance.view(np.full((120, 160), 90, np.uint8)).structured
    ground = np.where(np.arange(120)[:, None] > 80, 60, 0)
    horizons = [np.clip(image + ground, 0, 255).astype(np.uint8) for image in flat]
    assert all(appearance.view(image).structured for image in horizons)
    assert not any(alike(horizons[0], other) for other in horizons[1:])


def source(folder: Path, images: dict[str, np.ndarray]) -> Path:
    """Labelled stills, each a video of one frame would be."""
    for name, image in images.items():
        write_image(folder / f"{name}.png", image)
        (folder / f"{name}.csv").write_text("frame,x,y,w,h\n0,10,12,3,3\n")
    return folder


def placed(data: Path, name: str, wanted: dict[str, str]) -> None:
    """The splits that the groups of a set have, as if they had been given so."""
    path = data / name / splits.FILE
    content = read_json(path)
    content["groups"] |= wanted
    path.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The set `mine`: eight views, and `b` and `c` show again what `a` does; `a` and `b` lie in train, `c` in test."""
    folder = tmp_path_factory.mktemp("alike")
    images = {f"s{i}": image for i, image in enumerate(SCENES[1:9])} | {"a": SCENES[0]}
    images |= {"b": again(SCENES[0], 8), "c": again(SCENES[0])}
    ingest(source(folder / "source", images), "mine", folder / "data", folder / "staging")
    placed(folder / "data", "mine", {"a": "train", "b": "train", "c": "test"})
    return folder / "data"


def test_our_splits_refuse_a_near_duplicate_and_name_it(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        shards.build(data, tmp_path / "shards", ShardConfig())
    text = str(refused.value)
    assert text.startswith("set mine: ") and "\n" not in text
    assert "c (frame 0, test)" in text and "(frame 0, train)" in text and "and 1 more pairs" in text
    assert "--group-by" in text and "allow_duplicates: [mine/" in text and "params.yaml" in text
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize("allowed", [["mine"], ["mine/a+c", "mine/c+b"]])
def test_what_is_accepted_by_name_is_counted(data: Path, tmp_path: Path, allowed: list[str]) -> None:
    said: list[str] = []
    config = ShardConfig(split=SplitConfig(allow_duplicates=allowed))
    shards.build(data, tmp_path / "shards", config, warn=said.append)
    found = read_json(tmp_path / "shards" / "mine" / "manifest.json")["duplicates"]["pairs"]
    assert {tuple(pair["sequences"]) for pair in found} == {("a", "c"), ("b", "c")}
    assert all(pair["splits"] == [["train"], ["test"]] and 0.6 <= pair["similarity"] <= 1 for pair in found)
    assert len(said) == 1 and "set mine: 2 near-duplicates across its splits" in said[0]


def test_accepting_one_pair_leaves_the_other(data: Path, tmp_path: Path) -> None:
    config = ShardConfig(split=SplitConfig(allow_duplicates=["mine/a+c", "other"]))
    with pytest.raises(InputError, match=r"^set mine: b \(frame 0, train\) and c \(frame 0, test\) show the same: "):
        shards.build(data, tmp_path / "shards", config)


def test_a_wider_group_is_the_remedy(tmp_path: Path) -> None:
    images = {f"s{i}": image for i, image in enumerate(SCENES[1:9])}
    images |= {"view-1": SCENES[0], "view-2": again(SCENES[0], 8), "view-3": again(SCENES[0])}
    folder = source(tmp_path / "source", images)
    ingest(folder, "mine", tmp_path / "data", tmp_path / "staging", group_by="(s[0-9]|view)")
    shards.build(tmp_path / "data", tmp_path / "shards", ShardConfig())
    assert not read_json(tmp_path / "shards" / "mine" / "manifest.json")["duplicates"]["pairs"]


def test_an_unchanged_set_is_not_compared_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ShardConfig(split=SplitConfig(allow_duplicates=["mine"]))
    build = [tmp_path / "shards", config]
    shards.build(data, *build, warn=lambda line: None)
    first = read_json(tmp_path / "shards" / "mine" / "manifest.json")
    calls = []
    find = duplicates.find
    monkeypatch.setattr(duplicates, "find", lambda members: calls.append(len(members)) or find(members))
    shards.build(data, *build, warn=lambda line: None)
    assert not calls and read_json(tmp_path / "shards" / "mine" / "manifest.json") == first
    # What was found before is refused without looking again, too.
    with pytest.raises(InputError, match="show the same"):
        shards.build(data, tmp_path / "shards", ShardConfig())
    changed = tmp_path / "data"
    shutil.copytree(data, changed)
    placed(changed, "mine", {"b": "test"})
    shards.build(changed, *build, warn=lambda line: None)
    assert calls == [11]


def test_equal_bytes_are_found_in_a_flat_sky_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    flat = [np.clip(rng.normal(90, 3, (60, 80)), 0, 255).astype(np.uint8) for _ in range(5)]
    folder = source(tmp_path / "source", {f"s{i}": image for i, image in enumerate(flat)} | {"copy": flat[0]})
    ingest(folder, "mine", tmp_path / "data", tmp_path / "staging")
    placed(tmp_path / "data", "mine", {"s0": "train", "copy": "val"})
    with pytest.raises(InputError, match=r"^set mine: copy \(frame 0, val\) and s0 \(frame 0, train\) show the same: "):
        shards.build(tmp_path / "data", tmp_path / "shards", ShardConfig())


def test_a_published_list_is_counted_never_refused(tmp_path: Path) -> None:
    images = {f"s{i}": image for i, image in enumerate(SCENES[1:5])} | {"a": SCENES[0], "c": again(SCENES[0])}
    for name, image in images.items():
        write_image(tmp_path / "source" / "images" / f"{name}.png", image)
        mask = np.zeros(image.shape, np.uint8)
        mask[20:23, 30:33] = 255
        write_image(tmp_path / "source" / "masks" / f"{name}_pixels0.png", mask)
    (tmp_path / "source" / "img_idx").mkdir()
    (tmp_path / "source" / "img_idx" / "train_MINE.txt").write_text("s0\ns1\na\n")
    (tmp_path / "source" / "img_idx" / "val_MINE.txt").write_text("s2\n")
    (tmp_path / "source" / "img_idx" / "test_MINE.txt").write_text("s3\nc\n")
    ingest(tmp_path / "source", "mine", tmp_path / "data", tmp_path / "staging")
    said: list[str] = []
    shards.build(tmp_path / "data", tmp_path / "shards", ShardConfig(), warn=said.append)
    found = read_json(tmp_path / "shards" / "mine" / "manifest.json")["duplicates"]["pairs"]
    assert [pair["sequences"] for pair in found] == [["a", "c"]]
    assert said == [
        "shards: set mine: 1 near-duplicates across its published list, such as a (frame 0, train) and c (frame 0, test); "
        "kept as they are"
    ]


def test_stretches_of_one_recording_are_counted(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_video(
            tmp_path / "source" / f"{name}.mkv", np.stack([again(SCENES[0], 8)] * (30 if name == "one" else 34))
        )
        rows = [f"{t},10,12,3,3" for t in range(30 if name == "one" else 34)]
        (tmp_path / "source" / f"{name}.csv").write_text("\n".join(["frame,x,y,w,h", *rows]) + "\n")
    ingest(tmp_path / "source", "mine", tmp_path / "data", tmp_path / "staging")
    said: list[str] = []
    config = ShardConfig(split=SplitConfig(by="block"))
    shards.build(tmp_path / "data", tmp_path / "shards", config, warn=said.append)
    assert len(said) == 1 and "1 near-duplicates across its splits" in said[0]


@pytest.mark.parametrize("kind", [".mkv", "folder", ".tiff"])
def test_frames_at(tmp_path: Path, kind: str) -> None:
    images = np.stack([image[:64, :96] for image in SCENES[:9]])
    path = tmp_path / f"x{kind.removeprefix('folder')}"
    if kind == "folder":
        for i, image in enumerate(images):
            write_image(path / f"{i}.png", image)
    elif kind == ".tiff":
        assert cv2.imwritemulti(str(path), [*images])
    else:
        write_video(path, images)
    for indices in ([0], [0, 4, 8], [3, 20]):
        found = frames_at(path, indices)
        assert len(found) == sum(i < 9 for i in indices)
        for i, image in zip(indices, found, strict=False):
            np.testing.assert_array_equal(image, images[i])


def test_real_pairs() -> None:
    """The known pairs of NUAA-SIRST among a third of its images, and no others."""
    folder = shared("sirst") / "images"
    known = [("Misc_201", "Misc_204"), ("Misc_27", "Misc_31"), ("Misc_88", "Misc_90"), ("Misc_375", "Misc_376")]
    names = sorted({p.stem for p in folder.iterdir() if int(p.stem.split("_")[1]) % 3 == 1}.union(*known))
    views = [appearance.view(frames_at(folder / f"{name}.png", [0])[0]) for name in names]
    found = {
        (names[a], names[b])
        for _, a, b, shift in appearance.candidates(views, np.arange(len(views)))
        if appearance.similarity(views[a], views[b], shift) >= appearance.SAME
    }
    assert found == {*known}


def test_the_sample_has_none(sample_data: Path) -> None:
    items = sequence.sequences(sample_data, "sample")
    members = [duplicates.Member(item, (splits.SPLITS[i % 4],)) for i, item in enumerate(items)]
    assert duplicates.find(members) == []

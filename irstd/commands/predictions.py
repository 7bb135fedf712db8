"""`irstd evaluate --predictions`: scores what was predicted anywhere, with the files and the output of a model's evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from irstd.commands import evaluate
from irstd.commands import threshold as threshold_choice
from irstd.commands.baselines import Anew
from irstd.commands.frames import frames_of, ignored, mask_of
from irstd.commands.show import say
from irstd.data import predictions, sequence
from irstd.data.importers.text import read_mapping
from irstd.data.loader import ClipLoader
from irstd.data.manifest import Manifest, read_all
from irstd.data.predictions import Key, Names, Predictions
from irstd.data.predictions.boxes import images_of
from irstd.data.predictions.naming import some
from irstd.errors import InputError, nearest
from irstd.workspace import Workspace

if TYPE_CHECKING:
    from irstd.metrics import Report
    from irstd.metrics.mistakes import Mistakes

CHOSEN = "external predictions"
MISSING = ("refuse", "empty")


def run(
    workspace: Workspace,
    place: Path,
    uri: str | None,
    overrides: list[str],
    split: str,
    shards: str | None,
    out: Path | None,
    report: Path | None = None,
    fa: float | None = None,
    beside: list[str] | None = None,
    name: str | None = None,
    threshold: float | None = None,
    missing: str = "refuse",
    images: Path | None = None,
) -> None:
    """Options as of the command line."""
    from irstd.metrics.mistakes import Mistakes

    if uri is not None:
        raise InputError(f"{uri} and --predictions {place}: score one at a time, a model or predictions")
    if missing not in MISSING:
        raise InputError(f"--missing {missing}: unknown{nearest(missing, MISSING)}; known: {', '.join(MISSING)}")
    sets = evaluate.checked_options("each prediction is scored", overrides, split, out, report, fa, beside)
    manifests = read_all(workspace.shards_at(shards), sets)
    evaluate.labelled(manifests, split)

    def fresh() -> ClipLoader:
        sets = [manifest.set for manifest in manifests]
        return ClipLoader(workspace.shards_at(shards), split, 1, 1, sets=sets, gradient=False)

    loader = fresh()
    keys = [loader.windows.key(index) for index in range(len(loader.windows))]
    given = predictions.read(place, names(workspace, manifests, keys), lambda: numbering(workspace, manifests, images))
    complete(given, len(keys), split, missing)
    name = name or place.stem
    say(f"{name}: {given.form}")
    evaluate.checked_task(given.maps is None, name, fa, loader)
    if threshold is not None and not 0 <= threshold < (1 if given.maps is not None else float("inf")):
        raise InputError(
            f"--threshold {threshold:g}: a pixel is predicted above the threshold, a box at least at it: give 0 or more, and "
            "for maps less than 1"
        )
    scored = protocols(given, manifests)
    point = None
    if fa is not None:  # first of all: where it cannot be told, nothing else is waited for
        maps = Anew(lambda: (_map(given, *_place(batch)) for batch in fresh()))
        point = threshold_choice.of_maps(maps, fresh, fa)
    worst = Mistakes(0.5 if threshold is None else threshold)
    gathered = fill(given, loader, worst.threshold, scored, worst)
    found = gathered.compute() | {
        "split": split,
        "digests": {manifest.set: manifest.digest for manifest in manifests},
        "chosen": CHOSEN,
        "run": None,
        "name": name,
        "baselines": [],
    }
    if found["protocols"][0]["grid"] is None:
        found["baselines"] = evaluate.compared(fresh, found, beside)
    if point is not None:
        found["wanted_fa"] = point
    folder = report or workspace.home / "evaluations" / f"{sequence.slug(name)}-{split}"
    evaluate.written(workspace, gathered, found, out, folder)
    if worst.frames:
        evaluate.gallery(workspace, worst, name, found, folder)
    evaluate.tell(found, folder, predictions=str(place), name=name)


def names(workspace: Workspace, manifests: Sequence[Manifest], keys: Sequence[Key]) -> Names:
    """The names of the key frames; those of their original files where data/ holds the recordings of these shards."""
    originals = {}
    for manifest in manifests:
        for name, values in manifest.content["sequences"].items():
            try:
                found = sequence.load(workspace.data / manifest.set / name)
            except InputError:
                continue
            if found.source_sha256 == values["source_sha256"]:
                originals[f"{manifest.set}/{name}"] = found.source
    return Names(keys, originals)


def numbering(workspace: Workspace, manifests: Sequence[Manifest], images: Path | None) -> dict[int, str] | None:
    """File names by the ids of `--images`, else by those of `irstd export --format coco`; None where nothing says them."""
    if images is not None:
        return images_of(read_mapping(images, str(images)), str(images))
    if len(manifests) > 1:  # every export counts from 1
        return None
    (manifest,) = manifests
    from irstd.data import exporters

    try:
        items = exporters.items_of(workspace.data, manifest.set)
    except InputError:
        return None
    labels = {name: values["annotations_sha256"] for name, values in manifest.content["sequences"].items()}
    for item in items:
        if labels.get(item.sequence.name, item.sequence.annotations_sha256) != item.sequence.annotations_sha256:
            raise InputError(
                f"{manifest.set}/{item.sequence.name}: was labelled anew since these shards were built, and ids count the "
                "labelled frames: name the file that the ids are of with --images"
            )
    return {
        image: str(exporters.coco.place(item, frame.index)) for image, item, frame in exporters.coco.numbered(items)
    }


def complete(given: Predictions, count: int, split: str, missing: str) -> None:
    """Say what is there besides, and refuse what lacks."""
    extra = f"{len(given.extra)} of no labelled frame of {split} ({some(given.extra)})" if given.extra else ""
    if given.missing and missing == "refuse":
        lacking = some(f"{name}/{frame:06d}" for name, frame in given.missing)
        raise InputError(
            f"no prediction for {len(given.missing)} of {count} frames of {split}: {lacking}"
            f"{'; there are ' + extra if extra else ''}: add them, or count them as empty with --missing empty"
        )
    if given.missing:
        say(f"counted as empty: {len(given.missing)} of {count} frames without a prediction")
    if extra:
        say(f"left out: predictions {extra}")


def protocols(given: Predictions, manifests: Sequence[Manifest]) -> list[tuple[str, int | None]]:
    """The protocols and grids that maps of this size can be scored by: all on the frames' own, else those of one grid."""
    from irstd.metrics.report import SEGMENTATION

    if given.maps is None:
        return []
    sizes = {
        f"{manifest.set}/{name}": (values["height"], values["width"])
        for manifest in manifests
        for name, values in manifest.content["sequences"].items()
    }
    strange = {key: shape for key, shape in given.maps.shapes.items() if shape != sizes[key[0]]}
    if not strange:
        return list(SEGMENTATION)
    found = [(name, grid) for name, grid in SEGMENTATION if {*given.maps.shapes.values()} == {(grid, grid)}]
    if not found:
        key, (height, width) = next(iter(strange.items()))
        grids = ", ".join(f"{grid} for {name}" for name, grid in SEGMENTATION if grid)
        raise InputError(
            f"{given.maps.paths[key]}: {height} x {width} px, and its frame has {' x '.join(map(str, sizes[key[0]]))}: save "
            f"maps of the frames' size, or all on a protocol's grid ({grids})"
        )
    kept = ", ".join(f"{name} (grid {grid})" for name, grid in found)
    say(f"maps are {found[0][1]} x {found[0][1]} px, so they are scored by {kept} alone, without baselines")
    return found


def fill(
    given: Predictions,
    loader: ClipLoader,
    threshold: float,
    scored: Sequence[tuple[str, int | None]],
    worst: Mistakes | None = None,
) -> Report:
    """A report of every labelled key frame; what has no prediction is empty. `worst` collects mistakes on the frames' grid."""
    from irstd.metrics import DetectionReport, SegmentationReport

    groups = evaluate.groups_of(loader.manifests)
    boxes = given.boxes
    out = SegmentationReport(threshold, scored, loader.pseudo_masks) if boxes is None else DetectionReport(threshold)
    for batch, frame_HW in frames_of(loader):
        key, shape = _place(batch)
        more = {"group": groups[key[0]], "ignore_K4": ignored(batch), "frame_HW": frame_HW}
        if isinstance(out, DetectionReport):
            boxes_N4, scores_N = boxes.get(key, (np.zeros((0, 4)), np.zeros(0)))
            out.update(key, boxes_N4, scores_N, batch["boxes"][0], **more)
            if worst is not None:
                worst.boxes(key, boxes_N4, scores_N, batch["boxes"][0], frame_HW, ignored(batch))
        else:
            grid = scored[0][1]
            shape = shape if len(scored) > 1 or grid is None else (grid, grid)
            map_HW = _map(given, key, shape)
            out.update(key, map_HW, mask_of(batch), **more)
            if worst is not None and map_HW.shape == frame_HW.shape and grid is None:
                worst.masks(key, map_HW, mask_of(batch), frame_HW, ignored(batch))
    return out


def _place(batch: dict[str, Any]) -> tuple[Key, tuple[int, int]]:
    """Key and size of a batch's one frame."""
    (key,), (height, width) = batch["key"], batch["size"][0]
    return key, (int(height), int(width))


def _map(given: Predictions, key: Key, shape: tuple[int, int]) -> np.ndarray:
    return given.maps[key] if key in given.maps.paths else np.zeros(shape, np.float32)

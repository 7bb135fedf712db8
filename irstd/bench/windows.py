"""Windows of shards for the other sides of a comparison: as image files, and mapped from the tars.

Only the documented format of the manifest is used here, and the batches that the loader gives: nothing of its inside.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from irstd.data.gradient import GradientSpec
from irstd.data.loader import ClipLoader
from irstd.data.manifest import read_all, sealed, write_index
from irstd.errors import WorkError
from irstd.files import write_json

Key = tuple[str, int]
"""("<set>/<sequence>", frame index), as in a batch."""

RUNS = 4


@dataclass(frozen=True)
class Window:
    """One window: its T frames in order as files (names without a suffix) and as mapped arrays [H, W], and its crop.

    `gradient` is the key frame's stored map, float16 [H, W] in counts, mapped; None where the shards hold none, which is
    then made by `spec`. x = (counts - offset) * scale; the map is multiplied by scale.
    """

    stems: tuple[Path, ...]
    frames: tuple[np.ndarray, ...]
    gradient: np.ndarray | None
    top: int
    left: int
    height: int
    width: int
    offset: float
    scale: float
    spec: GradientSpec

    @property
    def area(self) -> tuple[slice, slice]:
        """Rows and columns of the crop in its frames."""
        return np.s_[self.top : self.top + self.height, self.left : self.left + self.width]


def exported(loader: ClipLoader, shards: Path, files: Path) -> dict[Key, Window]:
    """The windows of the loader's present epoch, which ends with this; what is missing of their files is written.

    Each frame becomes NAME.png and NAME.bmp, each key frame's mask NAME.mask.png, in a folder for each sequence. Running
    through the epoch also touches every page and has every checksum verified, which happens once in a process.
    """
    specs = {m.set: GradientSpec.from_dict(m.gradient) if m.gradient else GradientSpec() for m in read_all(shards)}
    rows = _mapped(shards)
    found: dict[Key, Window] = {}
    for batch in loader:
        for b, key in enumerate(batch["key"]):
            name, frame = key
            arrays, row = rows[key]
            chosen = [max(row - back, 0) for back in range(loader.frames - 1, -1, -1)]
            stems = tuple(files / name / f"{frame + r - row:06d}" for r in chosen)
            clip = tuple(arrays["frames.npy"][r] for r in chosen)
            for stem, frame_HW in zip(stems, clip, strict=True):
                write_frame(stem, frame_HW)
            if "masks.npy" in arrays:
                _write(Path(f"{stems[-1]}.mask.png"), arrays["masks.npy"][row])
            stored = arrays.get("gradient.npy")
            height, width = (int(v) for v in batch["size"][b])
            found[key] = Window(
                stems,
                clip,
                None if stored is None else stored[row],
                *_corner(batch["frames"][b, :, :height, :width], clip, key),
                height,
                width,
                float(batch["offset"][b]),
                float(batch["scale"][b]),
                specs[name.partition("/")[0]],
            )
    return found


def _mapped(shards: Path) -> dict[Key, tuple[dict[str, np.ndarray], int]]:
    """For every key frame of the split train: the arrays of its sample, mapped from the tar, and its row in them."""
    found = {}
    for manifest in read_all(shards):
        for shard in manifest.shards("train"):
            with (manifest.folder / shard["file"]).open("rb") as file:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            for sample in shard["samples"]:
                arrays = {
                    name: np.frombuffer(content, dtype, math.prod(shape), offset).reshape(shape)
                    for name, (offset, _, dtype, shape) in sample["members"].items()
                    if shape  # targets.json has none
                }
                name = f"{manifest.set}/{sample['sequence']}"
                for number in range(len(sample["labelled"])):
                    found[name, sample["first_frame"] + number] = arrays, sample["halo"] + number
    return found


def _corner(crop_THW: np.ndarray, clip: tuple[np.ndarray, ...], key: Key) -> tuple[int, int]:
    """Top and left of a crop in the frames of `clip`, found by its pixels. `WorkError` where they are not there."""
    height, width = crop_THW.shape[1:]
    whole_HW = clip[-1]
    line, text = crop_THW[-1, 0].astype(whole_HW.dtype).tobytes(), whole_HW.tobytes()
    at = text.find(line)
    while at >= 0:
        top, left = divmod(at // whole_HW.itemsize, whole_HW.shape[1])
        area = np.s_[top : top + height, left : left + width]
        if at % whole_HW.itemsize == 0 and all(map(np.array_equal, crop_THW, (frame_HW[area] for frame_HW in clip))):
            return top, left
        at = text.find(line, at + 1)
    raise WorkError(f"bench loader: the pixels of {key[0]} frame {key[1]} differ from the shards' own")


def write_frame(stem: Path, frame_HW: np.ndarray) -> None:
    """Write a frame as STEM.png, its counts untouched, and as STEM.bmp, as the field's sets of 8 bits come."""
    if stem.with_suffix(".bmp").exists():
        return
    stem.parent.mkdir(parents=True, exist_ok=True)
    eight_HW = frame_HW
    if frame_HW.dtype != np.uint8:  # the field's loader reads 8 bits: its pixels are not compared then, its time is
        eight_HW = cv2.normalize(frame_HW, None, 0, 255, cv2.NORM_MINMAX, cv2.CV_8U)
    _write(stem.with_suffix(".png"), frame_HW)
    _write(stem.with_suffix(".bmp"), eight_HW)


def _write(path: Path, image_HW: np.ndarray) -> None:
    if not path.exists() and not cv2.imwrite(str(path), image_HW):
        raise WorkError(f"{path}: cannot be written; free some space")


def thinned(shards: Path, folder: Path, most: int) -> Path:
    """`shards`, or a part of them in `folder` with at most `most` labelled key frames of the split train.

    The part is a few runs of neighbouring chunks, spread evenly: what lies before a run is decoded for it too.
    """
    counts = {
        s["key"]: s["labelled"].count("1") for m in read_all(shards) for t in m.shards("train") for s in t["samples"]
    }
    keys = [key for key, count in counts.items() if count]
    total = sum(counts.values())
    if total <= most:
        return shards
    length = min(len(keys), math.ceil(most * len(keys) / total / RUNS))
    starts = np.linspace(0, len(keys) - length, RUNS).astype(int)
    return part(shards, folder, {key for start in starts for key in keys[start : start + length]}, most)


def part(shards: Path, folder: Path, samples: Collection[str], most: int | None = None) -> Path:
    """Shards in `folder` with these samples of the split train, and of them the first `most` labelled key frames.

    The tars are linked, so bytes and offsets are those of `shards`; only the manifests are new. Returns `folder`.
    """
    left = math.inf if most is None else most
    kept_sets = []
    for manifest in read_all(shards):
        tars = []
        for shard in manifest.shards("train"):
            kept = []
            for sample in shard["samples"]:
                if sample["key"] in samples and left > 0:
                    kept.append(_labelled(sample, left))
                    left -= kept[-1]["labelled"].count("1")
            if kept:
                tars.append(shard | {"samples": kept})
        if not tars:
            continue
        labelled = sum(s["labelled"].count("1") for shard in tars for s in shard["samples"])
        content = manifest.content | {"shards": tars, "counts": {"train": {"labelled": labelled}}}
        target = folder / manifest.set
        target.mkdir(parents=True)
        for shard in tars:
            (target / shard["file"]).symlink_to((manifest.folder / shard["file"]).resolve())
        write_json(target / "manifest.json", sealed(content))
        kept_sets.append(manifest.set)
    write_index(folder, kept_sets)
    return folder


def _labelled(sample: dict[str, Any], most: float) -> dict[str, Any]:
    """`sample` with its first `most` labels; the rest are made unlabelled."""
    ones = [i for i, label in enumerate(sample["labelled"]) if label == "1"]
    last = ones[int(min(most, len(ones))) - 1] if ones else -1
    return sample | {"labelled": sample["labelled"][: last + 1].ljust(len(sample["labelled"]), "0")}

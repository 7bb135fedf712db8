"""`irstd bench loader`: windows a second from shards, against the same windows from image files.

T = 5, whole frames and square crops, each with the key frame's gradient map, one process, page cache warm: as batches of
counts, as the float32 tensor that a model takes, and as that tensor with masks. Before anything is timed, batches of all
sides are compared pixel by pixel.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from irstd.bench import readers
from irstd.bench.baselines import Scenes, write_shards
from irstd.bench.readers import Batch, Tar
from irstd.bench.timing import Report, interleaved, pinned, timed
from irstd.bench.windows import Key, Window, exported, thinned
from irstd.data.loader import ClipLoader
from irstd.data.manifest import read_all
from irstd.errors import WorkError
from irstd.models.batch import normalised, to_device

FRAMES = 5
BATCH = 4
LIMIT = 128  # key frames: each is written to files, and the files should stay in the page cache
CHECKED = 3  # batches that are compared before timing
GOAL_FRAMES, GOAL_CROP = "512x640 uint8", 256  # what goals are for
TOLERANCE = 2**-10  # relative, of a stored gradient map (float16) against a computed one

Reader = Callable[[list[Window]], Batch]


@dataclass(frozen=True)
class Product:
    """What a batch is when it is handed over, and who else makes it."""

    name: str
    make: Callable[[Batch], Batch]  # of our loader's batch
    arrays: tuple[str, ...]  # that must be equal on all sides
    readers: dict[str, Reader]
    goals: dict[str, tuple[float | None, float | None]]  # for each side: ours is so many times as fast; whole, crops


def _tensors(batch: Batch) -> Batch:
    moved = to_device(batch, "cpu")
    return moved | {"x": normalised(moved)}


# A goal of None: stated only.
PRODUCTS = (
    Product(
        "counts",
        lambda batch: batch,
        ("frames", "gradient"),
        {
            "careful": readers.careful,
            "field": readers.field,
            "copy": readers.copy,
            "raw copy": partial(readers.copy, raw=True),
        },
        {
            "careful": (None, 50),
            "field": (30, 100),
            "webdataset": (None, 8),
            "copy": (0.5, 0.5),
            "raw copy": (None, None),
        },
    ),
    Product("tensor", _tensors, ("x", "gradient"), {"careful": readers.careful_tensors}, {"careful": (None, 20)}),
    Product(
        "tensor and masks",
        _tensors,
        ("x", "gradient", "masks"),
        {"careful": readers.careful_masked},
        {"careful": (None, 20)},
    ),
)


def measure(
    folder: Path, seconds: float, shards: Path | None = None, scenes: Scenes | None = None, crop: int = 256
) -> Report:
    """Compare loaders on `shards` (default: of `scenes`, made in the empty folder `folder`) for about `seconds`."""
    with pinned():
        scenes = scenes or Scenes()
        source = str(scenes) if shards is None else f"shards in {shards}"
        shards = write_shards(scenes, folder) if shards is None else shards
        shards = thinned(shards, folder / "part", LIMIT)
        report = Report(f"windows a second of CPU time, batches of up to {BATCH}, one process", [source])
        for size in (None, crop):
            _compare(report, shards, folder, size, seconds / 2)
    report.facts += [
        "counts: as recorded, with the gradient map in float32; tensor: (counts - offset) * scale in float32, by torch",
        "careful: T PNG files with OpenCV, cropped; the gradient map computed from the crop; masks from a PNG a key frame",
        "field: T BMP files with Pillow, bicubic to 512x512, 3 channels, float32, normalised; no crop, no gradient map",
        "webdataset: a tar with one PNG a frame, in order, each decoded once; the rest as careful",
        "copy: NumPy from the mapped tar into a batch, the gradient map to float32; raw copy leaves it in float16",
    ]
    return report


def _compare(report: Report, shards: Path, folder: Path, crop: int | None, seconds: float) -> None:
    """Add the comparisons for whole frames (`crop` None) or crops to `report`."""
    manifests = read_all(shards)
    clip = min(FRAMES, *(m.frames for m in manifests))
    batch = min(BATCH, max(1, sum(m.count("train", "labelled") for m in manifests)))
    ours = ClipLoader(shards, "train", frames=clip, batch_size=batch, crop=crop)
    windows = exported(ours, shards, folder / "files")
    tar = Tar(folder / "frames.tar", folder / "files", list(windows.values()), batch)
    products = [product for product in PRODUCTS if ours.masks or "masks" not in product.arrays]
    what = "whole frames" if crop is None else f"crops {crop}x{crop}"
    # The order of an epoch is at random for ours; so it is for the others, but for the tar, which has one order.
    order = np.random.default_rng(0).permutation(len(windows))
    shuffled = [list(windows.values())[i] for i in order]
    sides = sum(1 + len(product.goals) for product in products)
    for product in products:
        ours.masks = "masks" in product.arrays
        ours.set_epoch(0)
        checked = check(ours, windows, product)
        if "webdataset" in product.goals:
            check_tar(tar)
        race = {"shards": _ours(ours, product.make)}
        for side in product.goals:
            race[side] = _next(tar) if side == "webdataset" else _reader(product.readers[side], shuffled, batch)
        # The processor's time of this process: no side waits for anything, and what else runs here stays out of it.
        race_timed = {side: timed(work, time.process_time) for side, work in race.items()}
        timing = interleaved(race_timed, seconds * len(race) / sides)
        report.rows += [
            {"what": what, "as": product.name, "side": side, "windows/s": timing.rate(side)} for side in race
        ]
        for side, goals in product.goals.items():
            label = f"{what}, {product.name}: shards / {side}"
            report.ratios.append((label, timing.ratio("shards", side)))
            goal = goals[crop is not None]
            if goal is not None and crop in (None, GOAL_CROP) and _sizes(windows) == GOAL_FRAMES:
                report.goals[label] = goal
    masks = "" if len(products) == len(PRODUCTS) else "; no masks in these shards"
    report.facts.append(
        f"{what}: T={clip}, {len(windows)} key frames of {_sizes(windows)}{masks}; checked: {checked} windows of each "
        "side, frames and tensors equal, gradient maps within 2^-10 of the computed ones"
    )


def _sizes(windows: dict[Key, Window]) -> str:
    """Height, width and type of the frames, as a range where there are several."""
    sizes = sorted({window.frames[-1].shape for window in windows.values()})
    kinds = "|".join(sorted({window.frames[-1].dtype.name for window in windows.values()}))
    return " to ".join(f"{h}x{w}" for h, w in dict.fromkeys([sizes[0], sizes[-1]])) + f" {kinds}"


def check(loader: ClipLoader, windows: dict[Key, Window], product: Product) -> int:
    """Compare the first batches of the epoch that `windows` are of with the product's other sides.

    Returns how many windows were compared. `WorkError` where one differs.
    """
    count = 0
    for batch in islice(loader, CHECKED):
        chosen = [windows[key] for key in batch["key"]]
        made = product.make(batch)
        for side, read in product.readers.items():
            if side == "field":
                _check_field(chosen)
            else:
                _same(side, {name: made[name] for name in product.arrays}, read(chosen), chosen)
        count += len(chosen)
    return count


def check_tar(tar: Tar) -> None:
    """Compare the first batches from the tar with the careful loader's. `WorkError` where one differs."""
    for chosen, batch in islice(tar, CHECKED):
        _same("webdataset", batch, readers.careful(chosen), chosen)


def _same(side: str, ours: Batch, theirs: Batch, windows: list[Window]) -> None:
    """`WorkError` unless the arrays that both have are equal: to the bit, but for gradient maps."""
    for name in [name for name in ours if name in theirs]:
        one, two = np.asarray(ours[name]), np.asarray(theirs[name])
        close = one.shape == two.shape and np.allclose(one, two, rtol=TOLERANCE, atol=1e-7)
        if not (close if name == "gradient" else np.array_equal(one, two)):
            frames = ", ".join(str(Path(*window.stems[-1].parts[-3:])) for window in windows)
            raise WorkError(f"bench loader: {side} differs in the {name} of {frames}; a ratio would mean nothing")


def _check_field(chosen: list[Window]) -> None:
    """Before it resizes, the field's loader has the careful one's frame: of 8 bits, since it cannot hold more."""
    import cv2
    from PIL import Image

    for window in chosen:
        counts_HW = cv2.imread(f"{window.stems[-1]}.png", cv2.IMREAD_UNCHANGED)
        with Image.open(window.stems[-1].with_suffix(".bmp")) as opened:
            same = counts_HW.dtype != np.uint8 or np.array_equal(np.asarray(opened), counts_HW)
        if not same:
            raise WorkError(f"bench loader: {window.stems[-1]}.bmp differs from its .png; a ratio would mean nothing")


def _ours(loader: ClipLoader, make: Callable[[Batch], Batch]) -> Callable[[], int]:
    """Makes the next batch at each call, epoch after epoch."""

    def batches() -> Iterator[Batch]:
        while True:
            yield from loader

    stream = batches()
    return lambda: len(make(next(stream))["key"])


def _next(tar: Tar) -> Callable[[], int]:
    """Makes the next batch from the tar at each call, pass after pass."""

    def batches() -> Iterator[list[Window]]:
        while True:
            for windows, _ in tar:
                yield windows

    stream = batches()
    return lambda: len(next(stream))


def _reader(read: Reader, windows: list[Window], batch: int) -> Callable[[], int]:
    """Reads the next `batch` windows at each call, round and round."""
    upcoming = cycle(windows)

    def work() -> int:
        chosen = list(islice(upcoming, batch))
        read(chosen)
        return len(chosen)

    return work

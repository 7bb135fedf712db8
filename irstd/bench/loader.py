"""`irstd bench loader`: windows a second from shards, against the same windows from image files.

One process, T = 5, whole frames and square crops, batches of counts with the key frame's gradient map, page cache warm.
Before anything is timed, batches of both sides are compared pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from irstd.bench.baselines import Scenes, Window, careful_batch, field_batch, write_files, write_shards
from irstd.bench.timing import Report, interleaved, pinned, timed
from irstd.data.gradient import GradientSpec
from irstd.data.loader import ClipLoader
from irstd.data.manifest import read_all
from irstd.errors import WorkError

FRAMES = 5
BATCH = 4
LIMIT = 128  # key frames: each is written to files, and the files should stay in the page cache
CHECKED = 3  # batches that are compared before timing
TOLERANCE = 2**-10  # relative, of a stored gradient map (float16) against a computed one


def measure(
    folder: Path, seconds: float, shards: Path | None = None, scenes: Scenes | None = None, crop: int = 256
) -> Report:
    """Compare loaders on `shards` (default: of `scenes`, made in the empty folder `folder`) for about `seconds`."""
    with pinned():
        scenes = scenes or Scenes()
        source = str(scenes) if shards is None else f"shards in {shards}"
        shards = write_shards(scenes, folder) if shards is None else shards
        report = Report(f"windows a second, batches of up to {BATCH}, one process", [source])
        for size in (None, crop):
            _compare(report, shards, folder / "files", size, seconds / 2)
    report.facts += [
        "careful: T PNG files with OpenCV, cropped, as counts; the gradient map computed from the crop",
        "field: T BMP files with Pillow, bicubic to 512x512, 3 channels, float32, normalised; no crop, no gradient map",
    ]
    return report


def _compare(report: Report, shards: Path, files: Path, crop: int | None, seconds: float) -> None:
    """Add the comparison for whole frames (`crop` None) or crops to `report`."""
    manifests = read_all(shards)
    clip = min(FRAMES, *(m.frames for m in manifests))
    batch = min(BATCH, max(1, sum(m.count("train", "labelled") for m in manifests)))
    ours = ClipLoader(shards, "train", frames=clip, batch_size=batch, crop=crop)
    ours.masks = False  # the other sides read none
    _thin(ours)
    windows = _windows(ours, files)
    checked = _check(ours, windows)

    # The order of an epoch is at random for ours; so it is for the others.
    order = np.random.default_rng(0).permutation(len(windows))
    shuffled = [list(windows.values())[i] for i in order]
    what = "whole frames" if crop is None else f"crops {crop}x{crop}"
    stream = _endless(ours)
    timing = interleaved(
        {
            "shards": timed(lambda: len(next(stream)["key"])),
            "careful": timed(_reader(careful_batch, shuffled, batch)),
            "field": timed(_reader(field_batch, shuffled, batch)),
        },
        seconds,
    )
    report.facts.append(
        f"{what}: T={clip}, {len(windows)} key frames of {_sizes(ours)}; checked: {checked} windows, frames equal, "
        "gradient maps within 2^-10 of the computed ones"
    )
    report.rows += [{"what": what, "side": side, "windows/s": timing.rate(side)} for side in timing.seconds]
    report.ratios += [(f"{what}: shards / {side}", timing.ratio("shards", side)) for side in ("careful", "field")]


def _thin(loader: ClipLoader) -> None:
    """Leave at most LIMIT key frames, from samples spread evenly over the shards; the loader's code runs as it is."""
    windows = loader.windows
    if len(windows) <= LIMIT:
        return
    samples = np.unique(windows.sample_N)
    each = max(1, len(windows) // len(samples))
    chosen = samples[np.linspace(0, len(samples) - 1, min(len(samples), -(-LIMIT // each))).astype(int)]
    keep = np.flatnonzero(np.isin(windows.sample_N, chosen))[:LIMIT]
    windows.sample_N, windows.row_N = windows.sample_N[keep], windows.row_N[keep]


def _windows(loader: ClipLoader, files: Path) -> dict[tuple[str, int], Window]:
    """Every window of the loader's present epoch as image files, by its key; what is missing of them is written.

    Asking for each window also touches its pages and has its checksums verified, which happens once in a process.
    """
    found = {}
    windows = loader.windows
    for index in range(len(windows)):
        item = loader.window(index)
        name, frame = item["key"]
        number, row = int(windows.sample_N[index]), int(windows.row_N[index])
        sample = windows.samples[number]
        frames_nHW = windows.array(number, "frames.npy")
        assert frames_nHW is not None
        stems = []
        for back in range(loader.frames - 1, -1, -1):
            r = max(row - back, 0)
            stems.append(files / name / f"{sample.first - sample.halo + r:06d}")
            write_files(stems[-1], frames_nHW[r])
        top, left = _corner(item["frames"][-1], frames_nHW)
        height, width = item["size"]
        gradient = loader.windows.manifests[sample.set].gradient
        spec = GradientSpec.from_dict(gradient) if gradient else GradientSpec()
        found[item["key"]] = Window(tuple(stems), top, left, height, width, item["scale"], spec)
    return found


def _sizes(loader: ClipLoader) -> str:
    """Height, width and type of the frames, as a range where there are several."""
    arrays = [loader.windows.array(int(number), "frames.npy") for number in np.unique(loader.windows.sample_N)]
    sizes = sorted({array.shape[1:] for array in arrays if array is not None})
    kinds = "|".join(sorted({array.dtype.name for array in arrays if array is not None}))
    return " to ".join(f"{h}x{w}" for h, w in dict.fromkeys([sizes[0], sizes[-1]])) + f" {kinds}"


def _corner(view_HW: np.ndarray, frames_nHW: np.ndarray) -> tuple[int, int]:
    """Top and left of a crop in its frame, from where its first pixel lies in memory."""
    bytes_in = view_HW.__array_interface__["data"][0] - frames_nHW.__array_interface__["data"][0]
    height, width = frames_nHW.shape[1:]
    return divmod(bytes_in // frames_nHW.itemsize % (height * width), width)


def _check(loader: ClipLoader, windows: dict[tuple[str, int], Window]) -> int:
    """Compare the epoch's first batches with the careful loader's; returns how many windows. `WorkError` if they differ."""
    count = 0
    for batch in islice(loader, CHECKED):
        chosen = [windows[key] for key in batch["key"]]
        frames_BTHW, gradient_BHW = careful_batch(chosen)
        close = np.allclose(batch["gradient"], gradient_BHW, rtol=TOLERANCE, atol=1e-7)
        if not np.array_equal(batch["frames"], frames_BTHW) or not close:
            keys = ", ".join(f"{name} frame {frame}" for name, frame in batch["key"])
            raise WorkError(
                f"bench loader: shards and files differ in the pixels of {keys}; a ratio would mean nothing"
            )
        _check_field(chosen)
        count += len(chosen)
    return count


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


def _endless(loader: ClipLoader) -> Iterator[dict[str, Any]]:
    """Epoch after epoch."""
    while True:
        yield from loader


def _reader(read: Callable[[list[Window]], Any], windows: list[Window], batch: int) -> Callable[[], int]:
    """Reads the next `batch` windows at each call, round and round."""
    upcoming = cycle(windows)

    def work() -> int:
        chosen = list(islice(upcoming, batch))
        read(chosen)
        return len(chosen)

    return work

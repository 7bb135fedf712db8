"""The loaders that ours is compared with, each written as its kind is written, over the windows of one data set.

- *field*: as public loaders for this task are usually written. For every key frame, T BMP files opened with Pillow, made
  three channels, resized to 512 x 512 (bicubic), divided by 255 and normalised by mean and deviation: float32.
- *careful*: as one writes it who has profiled the first. For every key frame, T PNG files through OpenCV as they are,
  cut before anything is computed; the gradient map of a crop from the crop and one pixel around it; counts, not floats.
- *webdataset*: plain `webdataset` over a tar with one PNG a frame, in order, each decoded once; the windows are
  assembled in memory from the last T frames, then cut as the careful loader cuts.
- *copy*: the limit. NumPy copies the areas of the T frames from the mapped tar into a batch, and the gradient map's from
  float16 to float32, times the scale. *raw copy* leaves the map in float16.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import webdataset

from irstd.bench.windows import Window
from irstd.data.gradient import gradient_magnitude
from irstd.models.batch import replicate_padding

FIELD_SIDE = 512
FIELD_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
FIELD_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)

Batch = dict[str, Any]
"""Arrays named as in a batch of `ClipLoader`."""


def field(windows: list[Window]) -> Batch:
    """The array "frames" alone: float32 [B, T, 3, 512, 512]."""
    from PIL import Image

    clips = []
    for window in windows:
        images = []
        for stem in window.stems:
            with Image.open(stem.with_suffix(".bmp")) as opened:
                image = opened.convert("RGB").resize((FIELD_SIDE, FIELD_SIDE), Image.Resampling.BICUBIC)
            values_HWC = np.array(image, dtype=np.float32) / 255.0
            values_HWC = (values_HWC - FIELD_MEAN) / FIELD_DEVIATION
            images.append(np.transpose(values_HWC, (2, 0, 1)))
        clips.append(np.array(images))
    return {"frames": np.stack(clips)}


def careful(windows: list[Window]) -> Batch:
    """Counts "frames" uint8|uint16 [B, T, H, W]; "gradient" float32 [B, H, W]; zero-padded as ours are."""
    return _cut(windows, [[_read(f"{stem}.png") for stem in window.stems] for window in windows])


def careful_tensors(windows: list[Window]) -> Batch:
    """Tensors "x" float32 [B, T, H, W] and "gradient" [B, H, W], made of the careful loader's batch."""
    batch = careful(windows)
    offset, scale = (
        torch.tensor(values).view(-1, 1, 1, 1)
        for values in ([window.offset for window in windows], [window.scale for window in windows])
    )
    x_BTHW = torch.from_numpy(batch["frames"]).to(torch.float32).sub_(offset).mul_(scale)
    sizes_B2 = torch.tensor([(window.height, window.width) for window in windows])
    return {"x": replicate_padding(x_BTHW, sizes_B2), "gradient": torch.from_numpy(batch["gradient"])}


def careful_masked(windows: list[Window]) -> Batch:
    """As `careful_tensors`, with "masks" uint8 [B, H, W] from one PNG file a key frame."""
    batch = careful_tensors(windows)
    masks_BHW = _empty(windows, (), np.uint8)
    for mask_HW, window in zip(masks_BHW, windows, strict=True):
        mask_HW[: window.height, : window.width] = _read(f"{window.stems[-1]}.mask.png")[window.area]
    return batch | {"masks": torch.from_numpy(masks_BHW)}


def copy(windows: list[Window], raw: bool = False) -> Batch:
    """As `careful`, from the mapped tars; without "gradient" where the shards hold no maps.

    `raw`: the maps are copied too, as they are stored, but not handed out.
    """
    frames_BTHW = _empty(windows, (len(windows[0].frames),), _depth([window.frames for window in windows]))
    stored = all(window.gradient is not None for window in windows)
    gradient_BHW = _empty(windows, (), np.float16 if raw else np.float32) if stored else None
    for b, window in enumerate(windows):
        h, w = window.height, window.width
        for t, frame_HW in enumerate(window.frames):
            frames_BTHW[b, t, :h, :w] = frame_HW[window.area]
        if gradient_BHW is None:
            continue
        map_HW, cut_HW = window.gradient[window.area], gradient_BHW[b, :h, :w]
        if raw:
            cut_HW[...] = map_HW
        else:
            np.multiply(map_HW, np.float32(window.scale), out=cut_HW, dtype=np.float32)
    return {"frames": frames_BTHW} if raw or gradient_BHW is None else {"frames": frames_BTHW, "gradient": gradient_BHW}


class Tar:
    """Batches of all `windows` from the plain tar at `path`, which is written of their PNG files under `files`."""

    def __init__(self, path: Path, files: Path, windows: list[Window], batch: int) -> None:
        names = {stem: stem.relative_to(files).as_posix() for window in windows for stem in window.stems}
        with webdataset.TarWriter(str(path)) as sink:
            for stem, name in sorted(names.items()):
                sink.write({"__key__": name, "png": stem.with_suffix(".png").read_bytes()})
        self.windows = {names[window.stems[-1]]: window for window in windows}
        self.keys = {key: [names[stem] for stem in window.stems] for key, window in self.windows.items()}
        self.clip = len(windows[0].stems)
        self.dataset = (
            webdataset.WebDataset(str(path), shardshuffle=False)
            .decode(webdataset.handle_extension("png", _decode))
            .compose(self._clips)
            .batched(batch, collation_fn=self._collate, partial=False)
        )

    def _clips(self, samples: Iterator[Batch]) -> Iterator[tuple[Window, list[np.ndarray]]]:
        """Each window with its T frames, as soon as its key frame has come."""
        recent: dict[str, np.ndarray] = {}
        for sample in samples:
            key = sample["__key__"]
            recent[key] = sample["png"]
            if len(recent) > self.clip:
                del recent[next(iter(recent))]
            if key in self.windows:
                yield self.windows[key], [recent[name] for name in self.keys[key]]

    @staticmethod
    def _collate(clips: list[tuple[Window, list[np.ndarray]]]) -> tuple[list[Window], Batch]:
        windows = [window for window, _ in clips]
        return windows, _cut(windows, [clip for _, clip in clips])

    def __iter__(self) -> Iterator[tuple[list[Window], Batch]]:
        """One pass over the tar; the windows of each batch, and its arrays as those of `careful`."""
        return iter(self.dataset)


def _cut(windows: list[Window], clips: list[list[np.ndarray]]) -> Batch:
    """The batch of `careful` from the windows' whole frames."""
    frames_BTHW = _empty(windows, (len(clips[0]),), _depth(clips))
    gradient_BHW = _empty(windows, (), np.float32)
    for b, (window, clip) in enumerate(zip(windows, clips, strict=True)):
        h, w = window.height, window.width
        for t, frame_HW in enumerate(clip):
            frames_BTHW[b, t, :h, :w] = frame_HW[window.area]
        # One pixel around the crop, where the frame has it, makes the map of the crop that of the whole frame, cut.
        up, before = min(1, window.top), min(1, window.left)
        around_HW = clip[-1][window.top - up : window.top + h + 1, window.left - before : window.left + w + 1]
        map_HW = gradient_magnitude(around_HW, window.spec.operator, window.spec.padding, window.scale)
        gradient_BHW[b, :h, :w] = map_HW[up : up + h, before : before + w]
    return {"frames": frames_BTHW, "gradient": gradient_BHW}


def _empty(windows: list[Window], between: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array [B, *between, H, W] for the largest of the windows; of zeros where others are smaller."""
    sizes = {(window.height, window.width) for window in windows}
    make = np.empty if len(sizes) == 1 else np.zeros
    return make((len(windows), *between, max(h for h, _ in sizes), max(w for _, w in sizes)), dtype)


def _depth(clips: Any) -> np.dtype:
    return max((clip[-1].dtype for clip in clips), key=lambda dtype: dtype.itemsize)


def _read(path: str) -> np.ndarray:
    return cv2.imread(path, cv2.IMREAD_UNCHANGED)


def _decode(data: bytes) -> np.ndarray:
    """WebDataset's own image decoders make 8 bits of 16; on 8 bits OpenCV is as fast as they are."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)

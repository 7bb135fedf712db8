"""`ClipLoader`: batches of clips from shards, in an order that depends on seed and epoch alone.

An epoch is one permutation of all key frames. With W ranks of B key frames, step k takes the k-th run of W * B key frames,
and rank r its r-th part: the batch that the ranks make together does not depend on how many they are, and a position in
the epoch (`state_dict`) means the same for any W. Random draws (crops, and the seeds that augmentation uses) come from
(seed, epoch, key frame), never from the rank. The CPU only slices: conversion and augmentation happen on the device.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from irstd.data import intensity
from irstd.data.gradient import gradient_magnitude
from irstd.data.manifest import pseudo_masks, read_all
from irstd.data.windows import Windows, fingerprint, require
from irstd.errors import InputError

Batch = dict[str, Any]


class ClipLoader:
    """Iterate the batches of one rank.

    Args:
        shards: folder that holds `manifest.json` and one folder for each set.
        split: "train", "val", "gate" or "test". Train is shuffled and drops the last, incomplete step; the others run in
            order, rank r taking every W-th key frame, and leave nothing out.
        frames: T, frames of a clip, the key frame last.
        batch_size: key frames in a batch of this rank.
        crop: side of square crops in pixels; None: whole frames.
        workers: threads that prepare batches ahead (slicing copies bytes and releases the interpreter's lock).
        sets: names of sets; None or empty: all.
        intensity_rule: see `irstd.data.intensity`.
        target_crop: probability that a crop is placed over a target of its key frame.
        gradient: yield the key frame's gradient map (stored, or computed where the shards hold none).

    Yields dicts: "frames" uint8|uint16 [B, T, H, W] counts; "gradient" float32 [B, H, W] of the key frame, times scale;
    "offset", "scale" float32 [B]; "masks" uint8 [B, H, W] where every set has masks; "boxes" (B arrays [M, 4], xywh in
    the pixels of the batch); "size" int64 [B, 2] true height and width (smaller frames are zero-padded bottom and right);
    "key": B pairs ("<set>/<sequence>", frame index); "seeds" uint64 [B].

    Raises: InputError for a split without labelled key frames, T above the shards', more ranks than key frames.
    """

    def __init__(
        self,
        shards: str | Path,
        split: str,
        frames: int = 5,
        batch_size: int = 8,
        crop: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        sets: list[str] | None = None,
        *,
        intensity_rule: str = "auto",
        target_crop: float = 0.5,
        gradient: bool = True,
    ) -> None:
        self.manifests = read_all(Path(shards), sets)
        require(self.manifests, split, frames)
        self.windows = Windows(self.manifests, split)
        self.split, self.frames, self.batch_size, self.crop = split, frames, batch_size, crop
        self.seed, self.rank, self.world_size, self.workers = seed, rank, world_size, workers
        self.intensity_rule, self.target_crop, self.gradient = intensity_rule, target_crop, gradient
        for manifest in self.manifests:
            for name, entry in manifest.content["sequences"].items():
                if intensity.resolve(intensity_rule, entry["bit_depth"]) == "full_scale" and entry["bit_depth"] > 8:
                    raise InputError(
                        f"data.intensity=full_scale would erase {manifest.set}/{name}, a {entry['bit_depth']}-bit recording; "
                        "use data.intensity=sequence"
                    )
        self.train = split == "train"
        self.masks = all("masks.npy" in s.members for s in self.windows.samples)
        self.pseudo_masks = pseudo_masks(self.manifests, split)  # how they were made where they are no annotation
        self.epoch = 0
        self.consumed = 0  # key frames of this epoch that all ranks together have been given
        self._loaded = False  # the next iteration goes on from a state
        if self.train and len(self.windows) < batch_size * world_size:
            raise InputError(
                f"train.batch={batch_size * world_size} is more than the {len(self.windows)} labelled key frames of the "
                "split 'train'; lower train.batch, or choose more sets"
            )
        if world_size > len(self.windows):
            raise InputError(f"{world_size} workers for {len(self.windows)} key frames of {split!r}; use fewer workers")

    def __len__(self) -> int:
        """Batches of this rank in a whole epoch."""
        if self.train:
            return len(self.windows) // (self.batch_size * self.world_size)
        mine = len(range(self.rank, len(self.windows), self.world_size))
        return -(-mine // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Start `epoch` from its beginning; an epoch that was loaded from a state goes on where it stopped."""
        if epoch != self.epoch:
            self.epoch, self.consumed = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is: JSON-able. Means the same for any number of ranks."""
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "consumed": self.consumed,
            "frames": fingerprint(self.manifests, self.split),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state`. `InputError` where it was saved over other key frames or with another seed."""
        if state["frames"] != fingerprint(self.manifests, self.split) or state["seed"] != self.seed:
            raise InputError("the loader's state belongs to other shards or another seed; start a new run")
        self.epoch, self.consumed, self._loaded = state["epoch"], state["consumed"], True

    def __iter__(self) -> Iterator[Batch]:
        """The epoch from its beginning; once after `load_state_dict`, the rest of the epoch."""
        if not self._loaded:
            self.consumed = 0
        self._loaded = False
        steps = self._steps()
        if not self.workers:
            for indices, consumed in steps:
                batch = self._batch(indices)
                self.consumed = consumed
                yield batch
            self._end()
            return
        with ThreadPoolExecutor(self.workers, thread_name_prefix="clips") as pool:
            ahead: deque[tuple[Future[Batch], int]] = deque()
            for indices, consumed in steps:
                ahead.append((pool.submit(self._batch, indices), consumed))
                if len(ahead) > 2 * self.workers:
                    future, self.consumed = ahead.popleft()
                    yield future.result()
            while ahead:
                future, self.consumed = ahead.popleft()
                yield future.result()
        self._end()

    def _end(self) -> None:
        """A finished epoch leaves the loader at the start of the next."""
        self.epoch, self.consumed = self.epoch + 1, 0

    def _steps(self) -> Iterator[tuple[np.ndarray, int]]:
        """The indices of this rank's batches from `consumed` on, each with the position after it."""
        total = len(self.windows)
        step = self.batch_size * self.world_size
        if not self.train:
            for start in range(self.consumed, total, step):
                stop = min(start + step, total)
                mine = np.arange(start + self.rank, stop, self.world_size)
                if len(mine):  # the last step may be too short for every rank
                    yield mine, stop
            return
        order = np.random.Generator(np.random.PCG64([self.seed, self.epoch])).permutation(total)
        for start in range(self.consumed, total - step + 1, step):
            mine = order[start + self.rank * self.batch_size :][: self.batch_size]
            yield mine, start + step

    def _batch(self, indices: np.ndarray) -> Batch:
        return collate([self.window(int(i)) for i in indices], self.masks, self.gradient)

    def window(self, index: int) -> Batch:
        """One key frame: its clip, cropped, with offset, scale and targets. Arrays are views of the mapped shards."""
        windows = self.windows
        number, row = int(windows.sample_N[index]), int(windows.row_N[index])
        sample = windows.samples[number]
        frames_nHW = windows.array(number, "frames.npy")
        assert frames_nHW is not None
        rows = [max(row - back, 0) for back in range(self.frames - 1, -1, -1)]
        for r in set(rows):
            windows.verify(number, r)
        name, frame = windows.key(index)
        targets = windows.targets(number)
        boxes_M4 = np.asarray(targets["frames"][row]["boxes"], np.float32).reshape(-1, 4)
        manifest = windows.manifests[sample.set]
        offset, scale = intensity.offset_scale(
            self.intensity_rule,
            targets["bit_depth"],
            targets["intensity"],
            manifest.content["intensity"],
            frames_nHW[row],
        )
        height, width = frames_nHW.shape[1:]
        draws = np.random.SeedSequence([self.seed, self.epoch, _stable(name), frame]).generate_state(4, np.uint64)
        top, left, h, w = 0, 0, height, width
        if self.crop is not None and self.train:
            top, left, h, w = self._crop(height, width, boxes_M4, draws)
        area = np.s_[top : top + h, left : left + w]
        item: Batch = {
            "frames": [frames_nHW[r][area] for r in rows],
            "offset": offset,
            "scale": scale,
            "size": (h, w),
            "key": (name, frame),
            "seeds": draws[3],
            "boxes": _crop_boxes(boxes_M4, top, left, h, w),
        }
        if self.gradient:
            stored = windows.array(number, "gradient.npy")
            if stored is not None:
                item["gradient"] = stored[row][area], scale
            else:
                item["gradient"] = gradient_magnitude(frames_nHW[row], scale=scale)[area], 1.0
        if self.masks:
            masks_nHW = windows.array(number, "masks.npy")
            assert masks_nHW is not None
            item["masks"] = masks_nHW[row][area]
        return item

    def _crop(self, height: int, width: int, boxes_M4: np.ndarray, draws: np.ndarray) -> tuple[int, int, int, int]:
        """Top, left, height, width of a crop: uniform, or over a target of the key frame with `target_crop`."""
        assert self.crop is not None
        h, w = min(self.crop, height), min(self.crop, width)
        top = int(draws[0] % np.uint64(height - h + 1))
        left = int(draws[1] % np.uint64(width - w + 1))
        if len(boxes_M4) and float(draws[2] >> np.uint64(11)) / 2**53 < self.target_crop:
            box = boxes_M4[int(draws[2] % np.uint64(len(boxes_M4)))]
            centre = int(box[1] + box[3] / 2), int(box[0] + box[2] / 2)
            top = int(np.clip(centre[0] - int(draws[0] % np.uint64(h)), 0, height - h))
            left = int(np.clip(centre[1] - int(draws[1] % np.uint64(w)), 0, width - w))
        return top, left, h, w


def collate(items: list[Batch], masks: bool, gradient: bool) -> Batch:
    """Stack windows into a batch, zero-padded bottom and right to the largest height and width."""
    count, clip = len(items), len(items[0]["frames"])
    height = max(item["size"][0] for item in items)
    width = max(item["size"][1] for item in items)
    dtype = np.uint16 if any(item["frames"][0].dtype == np.uint16 for item in items) else np.uint8
    same = all(item["size"] == (height, width) for item in items)
    make = np.empty if same else np.zeros
    frames_BTHW = make((count, clip, height, width), dtype)
    gradient_BHW = make((count, height, width), np.float32) if gradient else None
    masks_BHW = make((count, height, width), np.uint8) if masks else None
    for b, item in enumerate(items):
        h, w = item["size"]
        for t, frame_HW in enumerate(item["frames"]):
            frames_BTHW[b, t, :h, :w] = frame_HW
        if gradient_BHW is not None:
            counts_HW, scale = item["gradient"]
            np.multiply(counts_HW, np.float32(scale), out=gradient_BHW[b, :h, :w], dtype=np.float32)
        if masks_BHW is not None:
            masks_BHW[b, :h, :w] = item["masks"]
    batch: Batch = {
        "frames": frames_BTHW,
        "offset": np.array([i["offset"] for i in items], np.float32),
        "scale": np.array([i["scale"] for i in items], np.float32),
        "size": np.array([i["size"] for i in items], np.int64),
        "boxes": [i["boxes"] for i in items],
        "key": [i["key"] for i in items],
        "seeds": np.array([i["seeds"] for i in items], np.uint64),
    }
    if gradient_BHW is not None:
        batch["gradient"] = gradient_BHW
    if masks_BHW is not None:
        batch["masks"] = masks_BHW
    return batch


def _crop_boxes(boxes_M4: np.ndarray, top: int, left: int, height: int, width: int) -> np.ndarray:
    """Boxes in the crop's pixels, cut at its edges; those that lie outside are gone."""
    if not len(boxes_M4):
        return boxes_M4
    x1 = np.clip(boxes_M4[:, 0] - left, 0, width)
    y1 = np.clip(boxes_M4[:, 1] - top, 0, height)
    x2 = np.clip(boxes_M4[:, 0] + boxes_M4[:, 2] - left, 0, width)
    y2 = np.clip(boxes_M4[:, 1] + boxes_M4[:, 3] - top, 0, height)
    found = np.stack([x1, y1, x2 - x1, y2 - y1], 1)
    return found[(found[:, 2] > 0) & (found[:, 3] > 0)]


def _stable(name: str) -> int:
    """A number for a sequence's name that is the same in every process."""
    import zlib

    return zlib.crc32(name.encode())

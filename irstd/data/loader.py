"""`ClipLoader`: batches of clips from shards, in an order that depends on seed and epoch alone (`irstd.data.order`).

A batch that all ranks make together does not depend on how many they are, and a position in the epoch (`state_dict`)
means the same for any number of them. Random draws (crops, and the seeds that augmentation uses) come from (seed, epoch,
key frame), never from the rank. The CPU only slices: conversion and augmentation happen on the device.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from irstd.data import intensity, order
from irstd.data.gradient import GradientSpec, gradient_magnitude
from irstd.data.manifest import pseudo_masks, read_all
from irstd.data.regions import cut
from irstd.data.remote import Cache
from irstd.data.windows import Damaged, Windows, fingerprint, require, require_gradient
from irstd.errors import InputError

Batch = dict[str, Any]
Made = tuple[Batch | None, list[Damaged]]
TRIES = 100
"""Key frames that are tried in place of a damaged one: where all are damaged too, nothing is left to learn from."""
TRAINING = ("train", "train+val")
"""Splits that are shuffled, cropped and cut to whole steps."""


class ClipLoader:
    """Iterate the batches of one rank.

    Args:
        shards: folder that holds `manifest.json` and one folder for each set, or its URL, see `irstd.data.remote`.
        split: "train", "val", "gate" or "test", or "train+val", both as one. Those with train are shuffled and drop the last,
            incomplete step; the others run in order and leave nothing out. See `irstd.data.order` for which rank gets what.
        frames: T, frames of a clip, the key frame last.
        batch_size: key frames in a batch of this rank.
        crop: side of square crops in pixels; None: whole frames.
        workers: threads that prepare batches ahead, up to two each: copying, checksums and waiting for a disk or a
            store release the interpreter's lock.
        sets: names of sets; None or empty: all.
        intensity_rule: see `irstd.data.intensity`.
        target_crop: probability that a crop is placed over a target of its key frame.
        gradient: yield the key frame's gradient map (stored, or computed where the shards hold none).
        gradient_spec: what that map must be; None: what the chosen sets hold, which must be one and the same.
        guarded: read the tars instead of mapping them, see `irstd.data.guard`: whatever happens to a file while it is
            read is then an error that names set, sequence and frame. Slower, above all for crops: whole frames are read.
        cache: where tars from a store are kept.
        skip_damaged: pass over key frames whose bytes are missing or not those that were written. In training another key
            frame takes such a one's place, drawn from seed, epoch and its name, so that batches keep their size and no rank
            waits for another; elsewhere it is left out. `passed_over` tells of them.
        dataset: statistics of the intensity rule `dataset`, such as a model's; None: of the chosen sets' train splits.

    Yields dicts: "frames" uint8|uint16 [B, T, H, W] counts; "gradient" float32 [B, H, W] of the key frame, times scale;
    "offset", "scale" float32 [B]; "masks" uint8 [B, H, W] where every set has masks; "boxes" (B arrays [M, 4], xywh in
    the pixels of the batch; in training cut at the edge of the frame or the crop, and dropped where less than a quarter
    remains); "ignore" (B arrays [K, 4], regions of which nothing is claimed); "size" int64 [B, 2] true height and width
    (smaller frames are zero-padded bottom and right); "key": B pairs ("<set>/<sequence>", frame index); "seeds" uint64 [B];
    "intensity": the B rules behind offset and scale. uint8 and uint16 sets in one batch make it uint16, their counts as
    they are. A batch owns its memory.

    Raises: InputError for a split without labelled key frames, T above the shards', more ranks than key frames, gradient
    maps other than `gradient_spec`; WorkError for tars that are missing, short or damaged.
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
        gradient_spec: GradientSpec | None = None,
        guarded: bool = False,
        cache: Cache | None = None,
        dataset: Mapping[str, float] | None = None,
        skip_damaged: bool = False,
    ) -> None:
        _check(frames, batch_size, crop, rank, world_size, workers, target_crop)
        self.manifests = read_all(shards, sets, cache)
        require(self.manifests, split, frames)
        self.gradient_spec = require_gradient(self.manifests, gradient_spec) if gradient else None
        self.windows = Windows(self.manifests, split, guarded=guarded, lenient=skip_damaged)
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
        self.train = split in TRAINING
        self.skip_damaged = skip_damaged
        self._passed: tuple[int, dict[str, str]] = (0, {})
        self.dataset = dataset or intensity.of_train(self.manifests)
        self._intensity = lru_cache(1024)(self._intensity_of)
        # Of the rule "frame": offset and scale of each key frame once it was seen, the same in every epoch.
        self._frame_scale_N2 = np.full((len(self.windows), 2), np.nan)
        self.masks = all("masks.npy" in s.members for s in self.windows.samples)
        self.pseudo_masks = pseudo_masks(self.manifests, split)  # how they were made where they are no annotation
        self.manifests = [manifest.without_shards() for manifest in self.manifests]  # the windows have what they need
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
        return sum(1 for _ in self._steps(0))

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
        if missing := {"seed", "epoch", "consumed", "frames"} - {*state}:
            raise InputError(f"the loader's state lacks {', '.join(sorted(missing))}; give what `state_dict` returned")
        if state["frames"] != fingerprint(self.manifests, self.split) or state["seed"] != self.seed:
            raise InputError("the loader's state belongs to other shards or another seed; start a new run")
        self.epoch, self.consumed, self._loaded = state["epoch"], state["consumed"], True

    def __iter__(self) -> Iterator[Batch]:
        """The epoch from its beginning; once after `load_state_dict`, the rest of the epoch."""
        if not self._loaded:
            self.consumed = 0
        self._loaded = False
        steps = self._steps(self.consumed)
        if not self.workers:
            for indices, consumed in steps:
                yield from self._given(*self._batch(indices), consumed)
            self._end()
            return
        with ThreadPoolExecutor(self.workers, thread_name_prefix="clips") as pool:
            ahead: deque[tuple[Future[Made], int]] = deque()
            for indices, consumed in steps:
                ahead.append((pool.submit(self._batch, indices), consumed))
                if len(ahead) > 2 * self.workers:
                    future, position = ahead.popleft()
                    yield from self._given(*future.result(), position)
            while ahead:
                future, position = ahead.popleft()
                yield from self._given(*future.result(), position)
        self._end()

    def _given(self, batch: Batch | None, damaged: list[Damaged], consumed: int) -> Iterator[Batch]:
        """The batch, if there is one, when it is taken; one that fails is not consumed."""
        self.consumed = consumed
        if damaged:
            count, lines = self._passed
            missing = sum(error.counts for error in damaged)
            self._passed = count + missing, {error.chunk: str(error) for error in damaged} | lines
        if batch is not None:
            yield batch

    def passed_over(self) -> tuple[int, dict[str, str]]:
        """Damaged key frames since this was asked last, and a line for each chunk that they lay in."""
        passed, self._passed = self._passed, (0, {})
        return passed

    def _end(self) -> None:
        """A finished epoch leaves the loader at the start of the next."""
        self.epoch, self.consumed = self.epoch + 1, 0

    def _steps(self, begin: int) -> Iterator[tuple[np.ndarray, int]]:
        """The indices of this rank's batches from position `begin` on, each with the position after it."""
        total = len(self.windows)
        shuffled = order.permutation(self.seed, self.epoch, total) if self.train else None
        for start, stop in order.steps(begin, total, self.batch_size, self.world_size, drop_last=self.train):
            mine = order.part(start, stop, self.rank, self.world_size, contiguous=self.train)
            if len(mine):
                yield (mine if shuffled is None else shuffled[mine]), stop

    def _batch(self, indices: np.ndarray) -> Made:
        damaged: list[Damaged] = []
        items = [item for i in indices if (item := self._good(int(i), damaged)) is not None]
        if not items:
            return None, damaged
        batch = collate(items, self.masks, self.gradient) | {"intensity": [item["intensity"] for item in items]}
        return batch, damaged

    def _good(self, index: int, damaged: list[Damaged]) -> Batch | None:
        """The key frame, or what stands in for a damaged one."""
        try:
            return self.window(index)
        except Damaged as error:
            if not self.skip_damaged:
                raise
            error.counts = 1
            damaged.append(error)
            if not self.train:
                return None
            first = error
        name, frame = self.windows.key(index)
        for attempt in range(TRIES):
            other = _draws(self.seed, self.epoch, f"{name} {attempt}", frame)[0] % len(self.windows)
            try:
                return self.window(other)
            except Damaged as error:
                damaged.append(error)
        raise first

    def window(self, index: int) -> Batch:
        """One key frame: its clip, cropped, with offset, scale and targets. Arrays are views of the mapped shards."""
        windows = self.windows
        number, row = int(windows.sample_N[index]), int(windows.row_N[index])
        first = max(row - self.frames + 1, 0)
        for r in range(first, row + 1):
            windows.verify(number, r)
        clip_nHW = windows.rows(number, "frames.npy", first, row + 1)
        assert clip_nHW is not None
        name, frame = windows.key(index)
        targets = windows.targets(number)
        boxes_M4, ignore_K4 = targets.boxes[row], targets.ignore[row]
        rule, offset, scale = self._intensity(number)
        if rule == "frame":
            if np.isnan(self._frame_scale_N2[index, 0]):  # percentiles take longer than all the rest
                self._frame_scale_N2[index] = intensity.offset_scale(rule, 16, frame_HW=clip_nHW[-1])
            offset, scale = self._frame_scale_N2[index].tolist()
        height, width = clip_nHW.shape[1:]
        draws = _draws(self.seed, self.epoch, name, frame)
        top, left, h, w = 0, 0, height, width
        if self.train:
            if self.crop is not None:
                top, left, h, w = self._crop(height, width, boxes_M4, draws)
            boxes_M4 = cut(boxes_M4, top, left, h, w)
            ignore_K4 = cut(ignore_K4, top, left, h, w, kept=0)
        clip_nHW = clip_nHW[:, top : top + h, left : left + w]
        missing = self.frames - len(clip_nHW)
        item: Batch = {
            # Before the first frame of a recording, that frame again.
            "frames": [*[clip_nHW[0]] * missing, *clip_nHW] if missing else clip_nHW,
            "offset": offset,
            "scale": scale,
            "size": (h, w),
            "key": (name, frame),
            "seeds": draws[3],
            "boxes": boxes_M4,
            "ignore": ignore_K4,
            "intensity": rule,
        }
        if self.gradient:
            stored = windows.rows(number, "gradient.npy", row, row + 1)
            if stored is not None:
                item["gradient"] = stored[0, top : top + h, left : left + w], scale
            else:
                item["gradient"] = self._computed(number, row, top, left, h, w, scale), 1.0
        if self.masks:
            masks_nHW = windows.rows(number, "masks.npy", row, row + 1)
            assert masks_nHW is not None
            item["masks"] = masks_nHW[0, top : top + h, left : left + w]
        return item

    def _computed(self, number: int, row: int, top: int, left: int, h: int, w: int, scale: float) -> np.ndarray:
        """The area of the gradient map of a whole frame, from the area and the pixel around it."""
        spec = self.gradient_spec
        frames_nHW = self.windows.rows(number, "frames.npy", row, row + 1)
        assert spec is not None and frames_nHW is not None
        up, before = min(1, top), min(1, left)
        around_HW = frames_nHW[0, top - up : top + h + 1, left - before : left + w + 1]
        map_HW = gradient_magnitude(around_HW, spec.operator, spec.padding, scale)
        return map_HW[up : up + h, before : before + w]

    def _intensity_of(self, number: int) -> tuple[str, float, float]:
        """The rule, offset and scale of a sample; of the rule "frame" only its name."""
        targets = self.windows.targets(number)
        rule = intensity.resolve(self.intensity_rule, targets.bit_depth)
        if rule == "frame":
            return rule, 0.0, 1.0
        return rule, *intensity.offset_scale(rule, targets.bit_depth, targets.intensity, self.dataset)

    def _crop(self, height: int, width: int, boxes_M4: np.ndarray, draws: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Top, left, height, width of a crop: uniform, or over a target of the key frame with `target_crop`."""
        assert self.crop is not None
        h, w = min(self.crop, height), min(self.crop, width)
        top, left = draws[0] % (height - h + 1), draws[1] % (width - w + 1)
        if len(boxes_M4) and (draws[2] >> 11) / 2**53 < self.target_crop:
            x, y, across, down = boxes_M4[draws[2] % len(boxes_M4)].tolist()
            # The pixel of the target's centre is anywhere in the crop, but for the frame's border.
            top = min(max(int(y + down / 2) - draws[0] % h, 0), height - h)
            left = min(max(int(x + across / 2) - draws[1] % w, 0), width - w)
        return top, left, h, w


def _check(
    frames: int, batch_size: int, crop: int | None, rank: int, world_size: int, workers: int, target_crop: float
) -> None:
    """`InputError` for arguments that would give nothing, the same batch for ever, or another rank's key frames."""
    for name, value, least in (
        ("frames", frames, 1),
        ("batch_size", batch_size, 1),
        ("crop", 1 if crop is None else crop, 1),
        ("world_size", world_size, 1),
        ("workers", workers, 0),
    ):
        if value < least:
            raise InputError(f"{name}={value}: give {least} or more")
    if not 0 <= rank < world_size:
        raise InputError(f"rank={rank}: ranks count from 0 to world_size - 1, here {world_size - 1}")
    if not 0 <= target_crop <= 1:
        raise InputError(f"target_crop={target_crop}: a probability, from 0 to 1")


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
        if isinstance(item["frames"], np.ndarray):
            frames_BTHW[b, :, :h, :w] = item["frames"]
        else:
            for t, frame_HW in enumerate(item["frames"]):
                frames_BTHW[b, t, :h, :w] = frame_HW
        if gradient_BHW is not None:
            counts_HW, scale = item["gradient"]
            scaled(counts_HW, scale, gradient_BHW[b, :h, :w])
        if masks_BHW is not None:
            masks_BHW[b, :h, :w] = item["masks"]
    batch: Batch = {
        "frames": frames_BTHW,
        "offset": np.array([i["offset"] for i in items], np.float32),
        "scale": np.array([i["scale"] for i in items], np.float32),
        "size": np.array([i["size"] for i in items], np.int64),
        "boxes": [i["boxes"] for i in items],
        "ignore": [i["ignore"] for i in items],
        "key": [i["key"] for i in items],
        "seeds": np.array([i["seeds"] for i in items], np.uint64),
    }
    if gradient_BHW is not None:
        batch["gradient"] = gradient_BHW
    if masks_BHW is not None:
        batch["masks"] = masks_BHW
    return batch


def scaled(map_HW: np.ndarray, scale: float, out_HW: np.ndarray) -> None:
    """out float32 [H, W] = map * float32(scale), rounded once.

    numpy converts float16 number by number; OpenCV does both in one pass, several times as fast, to the same bits.
    """
    if map_HW.dtype == np.float16:
        cv2.addWeighted(map_HW, float(np.float32(scale)), map_HW, 0, 0, dst=out_HW, dtype=cv2.CV_32F)
    else:
        np.multiply(map_HW, np.float32(scale), out=out_HW)


def _draws(seed: int, epoch: int, name: str, frame: int) -> tuple[int, ...]:
    """Four numbers of 64 bits that belong to a key frame in an epoch: the same in every process and version."""
    digest = blake2b(f"{seed}/{epoch}/{name}/{frame}".encode(), digest_size=32).digest()
    return struct.unpack("<4Q", digest)

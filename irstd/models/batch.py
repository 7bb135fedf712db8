"""From a batch of sensor counts to the tensors that a network takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from irstd.data.regions import claimed, touched
from irstd.errors import InputError

Batch = dict[str, Any]
TENSORS = ("frames", "gradient", "offset", "scale", "masks", "size")


def check(batch: Batch) -> None:
    """`InputError` with one line for a batch that no loader makes, by the arrays that were not moved yet."""
    frames = batch["frames"]
    shape, kind = tuple(frames.shape), str(frames.dtype).removeprefix("torch.")
    if len(shape) != 4 or 0 in shape:
        raise InputError(f"frames: the shape is {shape}, expected grey counts [B, T, H, W], not empty")
    # Moved, 16 bits are int32, and what augmentation made of counts is x.
    if kind not in ("uint8", *(("uint16",) if isinstance(frames, np.ndarray) else ("int32", "float32"))):
        raise InputError(f"frames: the type is {kind}, expected the sensor's counts, uint8 or uint16")
    if kind == "float32" and not finite(frames):
        raise InputError("frames: holds NaN or infinity")
    count, _, height, width = shape
    wanted = {"gradient": (count, height, width), "masks": (count, height, width)}
    wanted |= {"offset": (count,), "scale": (count,), "size": (count, 2)}
    for name, expected in wanted.items():
        value = batch.get(name)
        if value is None:
            continue
        if tuple(value.shape) != expected:
            raise InputError(f"{name}: the shape is {tuple(value.shape)}, with frames {shape} expected {expected}")
        if not isinstance(value, np.ndarray):
            continue
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            raise InputError(f"{name}: holds NaN or infinity")
        if name == "masks" and not (value.dtype == bool or ((value == 0) | (value == 1)).all()):
            raise InputError(f"masks: the values go up to {value.max():g}, expected 0 and 1 (binarise them first)")
        if name == "size" and not ((value >= 1).all() and (value <= (height, width)).all()):
            raise InputError(f"size: {value.tolist()} is not within the frames' {height} x {width}")


def with_claimed_targets(batch: Batch) -> Batch:
    """The batch with those boxes (and their classes) alone that count: not the ones that belong to a region to be ignored.

    `InputError` for boxes that no frame can have, and for as many lists of them as there are not key frames.
    """
    _check_boxes(batch)
    regions = batch.get("ignore")
    if regions is None or not any(len(boxes_K4) for boxes_K4 in regions):
        return batch
    kept = [claimed(boxes, ignore) for boxes, ignore in zip(batch["boxes"], regions, strict=True)]
    found = dict(batch)
    for name in ("boxes", "classes"):
        if batch.get(name) is not None:
            found[name] = [np.asarray(each)[kept_M] for each, kept_M in zip(batch[name], kept, strict=True)]
    return found


def _check_boxes(batch: Batch) -> None:
    if len(batch["boxes"]) != len(batch["size"]):
        raise InputError(f"boxes of {len(batch['boxes'])} key frames came with {len(batch['size'])} frames")
    for number, (boxes_M4, (height, width)) in enumerate(zip(batch["boxes"], batch["size"].tolist(), strict=True)):
        for x, y, w, h in boxes_M4:
            # Comparisons with NaN are false. A pixel of leave: labels are rounded.
            if not (w > 0 and h > 0 and x >= -1 and y >= -1 and x + w <= width + 1 and y + h <= height + 1):
                where = f" of {batch['key'][number]}" if batch.get("key") else ""
                raise InputError(
                    f"the box x={x:g}, y={y:g}, w={w:g}, h={h:g}{where} is empty or outside its frame {width} x {height}"
                )


def finite(values: torch.Tensor) -> bool:
    """Whether no value is NaN or infinite; True of a graph that is traced, which has none."""
    # The sum is NaN or infinite where any of them is.
    return torch.compiler.is_compiling() or bool(torch.isfinite(values.detach().sum(dtype=torch.float32)))


def to_device(batch: Batch, device: torch.device | str) -> Batch:
    """Move the arrays of a `ClipLoader` batch to `device` as tensors; a batch that was moved is returned as it is.

    Counts stay integers (uint8, or int32 for 16 bits, which have little arithmetic in torch): converting them is the
    device's work. `InputError` for a batch that no loader makes.
    """
    check(batch)
    found = dict(batch)
    for name in TENSORS:
        value = batch.get(name)
        if value is None or isinstance(value, torch.Tensor):
            if isinstance(value, torch.Tensor):
                found[name] = value.to(device)
            continue
        array = np.ascontiguousarray(value)
        if array.dtype == np.uint16:
            # Bits unchanged; the sign is mended on the device.
            tensor = torch.from_numpy(array.view(np.int16)).to(device).to(torch.int32) & 0xFFFF
        else:
            tensor = torch.from_numpy(array).to(device)
        found[name] = tensor
    return found


def normalised(batch: Batch) -> torch.Tensor:
    """Counts to x: float32 [B, T, H, W] = (counts - offset) * scale, float32 whatever autocast says.

    The loader pads smaller frames with zeros at the bottom and right; here the padding becomes a copy of the last row and
    column, so that it is no edge.
    """
    frames_BTHW = batch["frames"]
    device = frames_BTHW.device.type
    if torch.is_autocast_enabled(device):  # only then, which keeps autocast out of exported graphs
        with torch.autocast(device, enabled=False):
            return normalised(batch)
    offset = batch["offset"].float().view(-1, 1, 1, 1)
    scale = batch["scale"].float().view(-1, 1, 1, 1)
    return replicate_padding((frames_BTHW.to(torch.float32) - offset) * scale, batch.get("size"))


def replicate_padding(x: torch.Tensor, size_B2: torch.Tensor | None) -> torch.Tensor:
    """Overwrite the padding of [B, ..., H, W] beyond each true size with copies of the last true row and column."""
    if size_B2 is None:
        return x
    height, width = x.shape[-2:]
    sizes = [tuple(int(v) for v in pair) for pair in size_B2.tolist()]
    if all(pair == (height, width) for pair in sizes):
        return x
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    found = [
        x[b].index_select(-2, rows.clamp(max=h - 1)).index_select(-1, columns.clamp(max=w - 1))
        for b, (h, w) in enumerate(sizes)
    ]
    return torch.stack(found)


def ignored(batch: Batch, cell: int = 1) -> torch.Tensor | None:
    """bool [B, h, w] over cells of `cell` x `cell` pixels: those of which nothing is claimed; None where there are none."""
    regions = batch.get("ignore")
    if regions is None or not any(len(boxes_K4) for boxes_K4 in regions):
        return None
    frames = batch["frames"]
    height, width = (-(-side // cell) for side in frames.shape[-2:])
    found = np.stack([touched(boxes_K4, height, width, cell) for boxes_K4 in regions])
    return torch.from_numpy(found).to(frames.device)


def divided(batch: Batch, count: int) -> list[Batch]:
    """The batch, moved by `to_device`, as `count` batches of equally many key frames."""
    size = len(batch["key"]) // count
    if count == 1:
        return [batch]
    pieces = [slice(start, start + size) for start in range(0, count * size, size)]
    return [{name: value if value is None else value[piece] for name, value in batch.items()} for piece in pieces]


def true_part(batch: Batch, indices: list[int]) -> Batch:
    """The key frames `indices` of a batch, which share one true size, without their padding."""
    height, width = (int(v) for v in batch["size"][indices[0]])
    found = dict(batch)
    for name in TENSORS:
        if batch.get(name) is not None:
            value = batch[name][indices]
            found[name] = value[..., :height, :width] if name in ("frames", "gradient", "masks") else value
    for name in ("boxes", "ignore", "key", "seeds", "intensity"):
        if batch.get(name) is not None:
            found[name] = [batch[name][i] for i in indices]
    return found

"""Maps of probability, and masks: one PNG or NPY file a key frame."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from irstd.data.predictions.naming import Key
from irstd.data.stills import read_still
from irstd.errors import InputError

FULL = {"uint8": 255, "uint16": 65535}


class Maps:
    """float32 [h, w] in [0, 1] by key frame, read when asked for.

    Every file is looked at once before: integers are masks where none of all files holds more than 1, else their full
    scale (255, 65535) is 1. shapes: of each key frame's map. `InputError` for what is no such map.
    """

    def __init__(self, folder: Path, paths: Mapping[Key, PurePosixPath]) -> None:
        self.folder, self.paths = folder, dict(paths)
        self.shapes: dict[Key, tuple[int, int]] = {}
        highest, kinds = 0, set()
        for key, path in self.paths.items():
            array = self._raw(path)
            self.shapes[key] = array.shape
            kinds.add(array.dtype.name if array.dtype.kind != "f" else "float")
            if array.dtype.kind != "f":
                highest = max(highest, int(array.max()))
        self.binary = highest <= 1
        integers = sorted(kinds - {"float"})
        if integers and not self.binary and (strange := [kind for kind in integers if kind not in FULL]):
            raise InputError(
                f"{folder}: holds {strange[0]} values up to {highest}: save uint8, uint16 or floats in [0, 1]"
            )
        scales = [f"{FULL[kind]} is 1" for kind in integers if kind in FULL]
        read_as = (
            ["masks of 0 and 1"] if integers and self.binary else [f"probabilities, {', '.join(scales)}"] * bool(scales)
        )
        self.form = " and ".join([*read_as, *["probabilities in [0, 1]"] * ("float" in kinds)])

    def __getitem__(self, key: Key) -> np.ndarray:
        array = self._raw(self.paths[key])
        if array.dtype.kind == "f":
            return array.astype(np.float32, copy=False)
        return array.astype(np.float32) / (1 if self.binary else FULL[array.dtype.name])

    def _raw(self, path: PurePosixPath) -> np.ndarray:
        array = (_png if path.suffix.lower() == ".png" else _npy)(self.folder / path, str(path))
        if array.dtype.kind not in "fuib" or array.ndim != 2 or not array.size:
            raise InputError(f"{path}: {array.dtype} {list(array.shape)}: save one map [H, W] of numbers a file")
        low, high = array.min(), array.max()
        if not (np.isfinite(low) and np.isfinite(high)):
            raise InputError(f"{path}: holds NaN or infinity: save probabilities in [0, 1]")
        if low < 0 or (array.dtype.kind == "f" and high > 1):
            hint = "apply the sigmoid to logits" if low < 0 else "divide by the largest value that can be"
            raise InputError(f"{path}: values lie in [{low:g}, {high:g}]: {hint}, and save probabilities in [0, 1]")
        return array


def _png(path: Path, where: str) -> np.ndarray:
    image = next(read_still(path, where))
    if image.ndim == 3 and image.shape[2] == 3 and (image == image[..., :1]).all():
        return image[..., 0]  # grey saved as colour
    if image.ndim == 3:
        raise InputError(
            f"{where}: {image.shape[2]} channels that differ, a picture rather than a map: save one channel"
        )
    return image


def _npy(path: Path, where: str) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{where}: not readable as NPY ({error}): save one array with numpy.save") from None
    if not isinstance(array, np.ndarray):
        raise InputError(f"{where}: holds several arrays: save one array with numpy.save")
    return array.reshape(array.shape[-2:]) if array.ndim > 2 and array.size == np.prod(array.shape[-2:]) else array

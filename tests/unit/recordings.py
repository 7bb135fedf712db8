"""Small real recordings for the tests of irstd.data, written by OpenCV."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

CODES = {".mkv": "FFV1", ".avi": "MJPG", ".mp4": "mp4v"}


def frames(count: int = 6, height: int = 24, width: int = 32, bits: int = 8, seed: int = 0) -> np.ndarray:
    """uint8 or uint16 [count, height, width] noise that reaches the highest count of `bits`."""
    dtype = np.uint8 if bits <= 8 else np.uint16
    found = np.random.default_rng(seed).integers(0, 1 << bits, (count, height, width), dtype=dtype)
    found[-1, 0, 0] = (1 << bits) - 1
    return found


def write_video(path: Path, images: np.ndarray, fps: float = 25.0, code: str | None = None) -> Path:
    """By default FFV1 in mkv without loss; MJPEG in avi and MPEG-4 in mp4 with. Grey [T, H, W] or colour [T, H, W, 3]."""
    depth = cv2.CV_16U if images.dtype == np.uint16 else cv2.CV_8U
    options = [cv2.VIDEOWRITER_PROP_DEPTH, depth, cv2.VIDEOWRITER_PROP_IS_COLOR, int(images.ndim == 4)]
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (images.shape[2], images.shape[1])
    fourcc = cv2.VideoWriter.fourcc(*(code or CODES[path.suffix]))
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, fps, size, options)
    assert writer.isOpened()
    for image in images:
        writer.write(image)
    writer.release()
    return path


def write_image(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


def golden_video(name: str, folder: Path) -> tuple[Path, dict]:
    """A file of tests/golden/coded_video.json, written into `folder`, and what is known of it."""
    known = json.loads((Path(__file__).parents[1] / "golden" / "coded_video.json").read_text())["files"][name]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(zlib.decompress(base64.b64decode(known["zlib_base64"])))
    return path, known


def write_raw(path: Path, images: np.ndarray, **layout: object) -> Path:
    """A headerless recording and its sidecar; `layout`: other keys of `raw`. What is no pixel is 0xEE."""
    said = {"width": images.shape[2], "height": images.shape[1], "dtype": str(images.dtype)} | layout
    stored = images.astype(images.dtype.newbyteorder(">" if said.get("byte_order") == "big" else "<"))
    before, after = (b"\xee" * int(said.get(key, 0)) for key in ("frame_header", "frame_footer"))
    path.parent.mkdir(parents=True, exist_ok=True)
    body = b"".join(before + image.tobytes() + after for image in stored)
    path.write_bytes(b"\xee" * int(said.get("header", 0)) + body)
    path.with_suffix(".yaml").write_text(yaml.safe_dump({"raw": said}))
    return path


def tree(folder: Path) -> dict[str, str]:
    """{relative path: sha256} of every file, to see that nothing changed."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def shared(name: str) -> Path:
    """A folder of real data beside the repository, or a skip that says where it was looked for."""
    default = Path(__file__).resolve().parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("IRSTD_SHARED_DATA") or default) / name
    if not folder.is_dir():
        pytest.skip(f"real data absent: no folder {folder} (IRSTD_SHARED_DATA names another place)")
    return folder

"""Synthetic infrared sequences with exact labels, from a seed: the sample, the tests and the demo are made of them.

    python -m irstd.data.synthetic OUT [--seed N] [--sequences a,b]

writes the sample as a source folder, as someone would bring recordings of their own. The same seed gives the same
frames and labels; the bytes of a video file differ from one writing to the next, since Matroska numbers its files at
random.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from irstd.data import rle
from irstd.data.annotations import Annotations, FrameTargets
from irstd.data.synthetic_render import Scene, SceneSpec, render
from irstd.errors import InputError, IrstdError, WorkError, nearest
from irstd.files import staged_folder

__all__ = ["Scene", "SceneSpec", "annotations", "main", "render", "sample_specs", "write_source"]


def sample_specs(seed: int = 0) -> dict[str, SceneSpec]:
    """The shipped sample by sequence name; each sequence is a group of its own.

    Two sequences have no target; ``clouds-hot`` lies far above the others in offset and span, and so puts a rule of
    intensity to the test.
    """
    common = {"height": 96, "width": 128, "frames": 24, "fps": 25.0}
    table: dict[str, dict] = {
        "clouds-a": {"kind": "clouds", "offset": 3100, "span": 100, "targets": 2, "scr": 4.5},
        "clouds-b": {"kind": "clouds", "offset": 3300, "span": 130, "targets": 3, "scr": 4.5, "speed": (0.8, 2.2)},
        "clouds-c": {"kind": "clouds", "offset": 2900, "span": 110, "targets": 1, "scr": 7.0, "frames": 32},
        "clouds-empty": {"kind": "clouds", "offset": 3200, "span": 120, "targets": 0},
        "clouds-hot": {"kind": "clouds", "offset": 9000, "span": 900, "targets": 3, "scr": 4.0, "noise": 2.0},
        "ground-a": {"kind": "ground", "offset": 4100, "span": 120, "targets": 2, "scr": 5.5},
        "ground-b": {"kind": "ground", "offset": 4300, "span": 150, "targets": 3, "scr": 6.0, "clutter": 60},
        "ground-c": {"kind": "ground", "offset": 3900, "span": 110, "targets": 2, "scr": 5.0, "drift": 0.4},
        "ground-empty": {"kind": "ground", "offset": 4200, "span": 130, "targets": 0, "clutter": 60},
        "horizon-a": {"kind": "horizon", "offset": 3500, "span": 140, "targets": 1, "scr": 5.5},
        "horizon-b": {"kind": "horizon", "offset": 3600, "span": 170, "targets": 3, "scr": 6.0},
        "horizon-c": {"kind": "horizon", "offset": 3400, "span": 130, "targets": 2, "scr": 5.0, "frames": 32},
        "sea-a": {"kind": "sea", "offset": 2700, "span": 100, "targets": 3, "scr": 6.0},
        "sea-b": {"kind": "sea", "offset": 2600, "span": 90, "targets": 2, "scr": 8.0, "drift": 0.3},
    }
    return {name: SceneSpec(seed=1000 * seed + i, **{**common, **row}) for i, (name, row) in enumerate(table.items())}


def write_source(folder: str | Path, specs: Mapping[str, SceneSpec]) -> None:
    """Write sequences as a source folder: ``NAME.mkv``, ``NAME.annotations.json`` and ``NAME.yaml`` of each.

    The videos are FFV1 of 16-bit grey, read back and compared after writing. The folder appears when it is complete.

    Args:
        folder: a folder that does not exist or is empty.
        specs: by sequence name, a slug of ``[a-z0-9_-]``.

    Raises:
        InputError: the folder has content, or a name is no slug.
        WorkError: this OpenCV cannot write FFV1, or what it wrote does not read back exactly.
    """
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is not an empty folder; name another one")
    for name in specs:
        if not re.fullmatch(r"[a-z0-9_-]+", name):
            raise InputError(f"{name!r} is no name of a sequence: use [a-z0-9_-]")
    with staged_folder(folder) as staged:
        for name, spec in specs.items():
            scene = render(spec)
            _write_video(staged / f"{name}.mkv", scene.frames_THW, spec.fps)
            (staged / f"{name}.annotations.json").write_text(annotations(scene).to_json(), encoding="utf-8")
            sidecar = {"bit_depth": spec.bit_depth, "fps": spec.fps, "group": name, "licence": "CC0-1.0"}
            lines = (f"{key}: {json.dumps(value)}\n" for key, value in sidecar.items())
            (staged / f"{name}.yaml").write_text("".join(lines), encoding="utf-8")


def annotations(scene: Scene) -> Annotations:
    """The labels of a scene: every frame labelled, with boxes, points and mask."""
    frames = [
        FrameTargets(t, True, scene.boxes[t], points=scene.points[t], mask=rle.encode(mask_HW))
        for t, mask_HW in enumerate(scene.masks_THW)
    ]
    return Annotations(frames, masks=True)


def _write_video(path: Path, frames_THW: np.ndarray, fps: float) -> None:
    import cv2  # here, so that rendering alone does without it

    height, width = frames_THW.shape[1:]
    depth = [cv2.VIDEOWRITER_PROP_DEPTH, cv2.CV_16U, cv2.VIDEOWRITER_PROP_IS_COLOR, 0]
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"FFV1"), fps, (width, height), depth)
    if not writer.isOpened():
        raise WorkError(f"{path}: this OpenCV cannot write FFV1 video; install opencv-python >= 5")
    for frame_HW in frames_THW:
        writer.write(frame_HW)
    writer.release()

    # Unless told not to, the reader turns 16 bits into 8-bit colour without a word; told so, it warns on every file.
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    try:
        video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_CONVERT_RGB, 0])
        read = []
        while len(read) <= len(frames_THW) and (step := video.read())[0]:
            read.append(step[1])
        video.release()
    finally:
        cv2.utils.logging.setLogLevel(level)
    same = len(read) == len(frames_THW) and all(map(np.array_equal, read, frames_THW))
    if not same or read[0].dtype != np.uint16:
        raise WorkError(f"{path}: the video does not read back as it was written; this OpenCV's FFV1 is at fault")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the module. Returns the exit status: 0 done, 1 the work failed, 2 the usage is wrong."""
    parser = argparse.ArgumentParser("python -m irstd.data.synthetic", description="Write the synthetic sample.")
    parser.add_argument("out", type=Path, help="folder to write; absent or empty")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other scenes (default 0)")
    parser.add_argument("--sequences", help="names, separated by commas (default: all)")
    options = parser.parse_args(arguments)
    try:
        specs = sample_specs(options.seed)
        if options.sequences is not None:
            names = options.sequences.split(",")
            for name in names:
                if name not in specs:
                    raise InputError(f"no sequence {name!r}{nearest(name, specs)}; there are {', '.join(specs)}")
            specs = {name: specs[name] for name in names}
        write_source(options.out, specs)
    except IrstdError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except OSError as error:
        print(f"error: cannot write {options.out}: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}: {len(specs)} sequences, {sum(spec.frames for spec in specs.values())} frames")
    return 0


if __name__ == "__main__":
    sys.exit(main())

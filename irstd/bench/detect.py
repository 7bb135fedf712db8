"""`irstd bench detect`: frames a second of `irstd detect`, against the bare model over frames that are decoded beforehand.

`detect` opens a recording, hashes it, decodes it, normalises each frame, runs the network, collects its components, and writes
JSON lines that take their name when they are whole. The bare model runs on tensors that were made before the clock ran, from the
same frames, in batches of the same size. One process, one thread, its CPU time: what others do stays out of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from time import process_time

import numpy as np
import torch

from irstd import config as configuration
from irstd.bench.baselines import Scenes, write_data
from irstd.bench.timing import Report, interleaved, pinned, timed
from irstd.data import intensity, sequence
from irstd.data.video import open_recording
from irstd.errors import WorkError
from irstd.inference import package
from irstd.inference.detector import Detector
from irstd.models import build_model
from irstd.models.contract import state

GOAL = 0.9
BATCH = 4  # frames, as the detector takes them

# (package's folder, recording, folder of the results, bit depth) -> number of frames
Detect = Callable[[Path, Path, Path, int], int]


def measure(
    folder: Path,
    seconds: float,
    detect: Detect,
    scenes: Scenes | None = None,
    width: int = 8,
    video: Path | None = None,
) -> Report:
    """Detect in the recording `video`, or in the first one of `scenes`; `folder` is empty. `detect`: of the layer above."""
    with pinned():
        scenes = scenes or Scenes(sequences=1, frames=40)
        if video is None:
            video = sequence.sequences(write_data(scenes, folder / "data"), "bench")[0].recording
        recording = open_recording(video)
        frames_THW = np.stack(list(recording.frames()))
        detector = _detector(folder / "package", width, frames_THW[0], recording.bit_depth)
        network, inputs = detector.model, _inputs(frames_THW, recording.bit_depth)

        @torch.no_grad()
        def bare() -> int:
            for image_B1HW in inputs:
                network(image_B1HW)
            return len(frames_THW)

        def whole() -> int:
            count = detect(folder / "package", video, folder / "out", recording.bit_depth)
            if count != len(frames_THW):
                raise WorkError(
                    f"bench detect: {count} of {len(frames_THW)} frames came out; a rate would mean nothing"
                )
            return count

        timing = interleaved(
            {"irstd detect": timed(whole, process_time), "bare model": timed(bare, process_time)}, seconds
        )
        lines = (folder / "out" / "detections.jsonl").read_text().splitlines()
    name = "irstd detect / bare model"
    size = f"{len(frames_THW)} frames {recording.height}x{recording.width} of {recording.bit_depth} bits"
    found = sum(len(json.loads(line)["scores"]) for line in lines)
    return Report(
        "detection in a recording",
        [
            f"GGL-Net of width {width}, {size}; CPU time of one thread, no overlay",
            f"random weights, a threshold that little is above: {found} detections",
            f"checked: {len(lines)} lines of detections were written each time",
        ],
        [{"side": side, "frames/s": timing.rate(side)} for side in timing.seconds],
        [(name, timing.ratio("irstd detect", "bare model"))],
        {name: GOAL},
    )


def _inputs(frames_THW: np.ndarray, depth: int) -> list[torch.Tensor]:
    rule = intensity.resolve("auto", depth)
    found = []
    for first in range(0, len(frames_THW), BATCH):
        part = []
        for frame_HW in frames_THW[first : first + BATCH]:
            offset, scale = intensity.offset_scale(rule, depth, frame_HW=frame_HW)
            part.append((frame_HW.astype(np.float32) - np.float32(offset)) * np.float32(scale))
        found.append(torch.from_numpy(np.stack(part)[:, None]))
    return found


def _detector(folder: Path, width: int, frame_HW: np.ndarray, depth: int) -> Detector:
    """A network with random weights as a package; its threshold leaves a few pixels of the first frame."""
    torch.manual_seed(0)
    config = configuration.load(overrides={"model.width": width})
    made = package.write(folder, state(build_model(config)), config, [], {}, {})
    detector = Detector(made)
    found = detector.model.predict(detector._batch(frame_HW[None, None], depth, {}))[0]
    assert found.probability_HW is not None
    threshold = float(np.sort(found.probability_HW, axis=None)[-9])
    package.seal(folder, made.content | {"threshold": threshold})
    return Detector(package.Package.read(folder))

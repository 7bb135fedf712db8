"""Which intensity rule a small GGL-Net learns best with: `full_scale`, `sequence`, `dataset`, `frame`.

    python -m benchmarks.intensity_rules --data DIR [--out FILE] [--steps 450] [--seeds 3]

`recordings`: two real 16-bit recordings from two cameras (a CPTV video, a radiometric TIFF), targets of low SCR painted in;
the left part of each scene is train, the right part val. `stills`: the 8-bit images of NUAA-SIRST (list idx_427) as a 16-bit
sensor would give them, all on the same narrow span of counts. The product refuses `full_scale` above 8 bits; here it is
computed all the same, as counts / 65535.
`stills` has one arm more, the full scale of the pixels before they were mapped, and none for `frame`, which is the same as
`sequence` for a still.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.painting import build_shards, paint, write_recording
from benchmarks.trials import Trial, loader, run_all, table
from irstd.config import ShardConfig
from irstd.data.cptv import read_frames
from irstd.data.intensity import RULES
from irstd.data.loader import ClipLoader
from irstd.data.stills import read_still
from irstd.data.video import open_recording

SCR, SIGMA = (3.0, 6.0), (0.7, 1.2)
OFFSET, SPAN = 7000, 300  # counts of the stills' sensor: from a radiometric recording of a FLIR camera
SHARDS = ShardConfig(frames=1, chunk=16)
TILE = 128


def recordings(data: Path, source: Path) -> dict[str, str]:
    """Write the painted recordings into `source`; returns {group: split}."""
    rng = np.random.default_rng(3)
    cptv_THW = np.stack(list(read_frames(data / "raw" / "v2.cptv")))
    tiff_HW = next(read_still(data / "raw" / "example_radiometric.tiff"))
    # A camera that pans over the one image: tile after tile, each shown several times with other targets.
    tiles = [tiff_HW[y : y + TILE, x : x + TILE] for x in range(0, 640, TILE) for y in range(0, 512, TILE)]
    scenes = {
        "cptv-train": cptv_THW[:, :, :96],
        "cptv-val": cptv_THW[::2, :, 96:],
        "tiff-train": np.stack(tiles[:12] * 8),
        "tiff-val": np.stack(tiles[12:] * 6),
    }
    for name, frames_THW in scenes.items():
        painted = [paint(frame_HW, int(rng.integers(1, 3)), SCR, SIGMA, rng) for frame_HW in frames_THW]
        write_recording(source, name, *(np.stack(arrays) for arrays in zip(*painted, strict=True)))
    return {name: name.rpartition("-")[2] for name in scenes}


def stills(data: Path, source: Path) -> None:
    """Write the listed images as 16-bit ones into `source`, with their masks and list."""
    for name in ("masks", "idx_427"):
        shutil.copytree(data / "sirst" / name, source / name)
    (source / "images").mkdir()
    for path in sorted((data / "sirst" / "images").glob("*.png")):
        frame_HW = next(iter(open_recording(path).frames()))
        cv2.imwrite(str(source / "images" / path.name), mapped(frame_HW))


def mapped(frame_HW: np.ndarray) -> np.ndarray:
    """8-bit pixels as uint16 counts: 0 to 255 become 7000 to 7300, no two the same."""
    return (OFFSET + np.rint(frame_HW.astype(np.float64) * SPAN / 255)).astype(np.uint16)


class FixedScale(ClipLoader):
    """Offset and scale stated, whatever the bit depth: what the product refuses."""

    offset, scale = 0.0, 1 / 65535

    def window(self, index: int) -> dict[str, Any]:
        item = super().window(index)
        item["offset"], item["scale"] = self.offset, self.scale
        if "gradient" in item:
            item["gradient"] = item["gradient"][0], self.scale
        return item


class SpanScale(FixedScale):
    """The full scale of the 8-bit pixels that the stills were mapped from."""

    offset, scale = float(OFFSET), 1 / SPAN


def trials(data: Path, work: Path) -> list[Trial]:
    given = recordings(data, work / "source" / "recordings")
    stills(data, work / "source" / "stills")
    places = {
        "recordings": build_shards(work / "source" / "recordings", work / "recordings", "recordings", SHARDS, given),
        "stills": build_shards(work / "source" / "stills", work / "stills", "stills", SHARDS),
    }
    crops = {"recordings": 64, "stills": 96}
    found = []
    for study, shards in places.items():
        for rule in RULES:
            if (study, rule) == ("stills", "frame"):
                continue  # a still is a sequence of one frame: the same offset and scale as `sequence`, to the bit
            settings = {"data.crop": crops[study], "data.intensity": "auto" if rule == "full_scale" else rule}
            fixed = partial(loader, kind=FixedScale) if rule == "full_scale" else None
            found.append(Trial(study, rule, shards, settings, fixed))
    found.append(
        Trial("stills", "full_scale of 8 bits", places["stills"], {"data.crop": 96}, partial(loader, kind=SpanScale))
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds raw/ and sirst/")
    parser.add_argument("--out", type=Path, default=Path("intensity_rules.jsonl"), help="rows; those there are kept")
    parser.add_argument("--steps", type=int, default=450)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", help="the arms of this data alone: recordings, stills")
    parser.add_argument("--arms", nargs="+", help="these rules alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="irstd-intensity-") as folder:
        chosen = [
            trial
            for trial in trials(options.data, Path(folder))
            if options.only in (None, trial.study) and (options.arms is None or trial.arm in options.arms)
        ]
        rows = run_all(chosen, range(options.seeds), options.steps, options.out)
    names = {"iou": "IoU", "niou": "nIoU", "pd": "Pd", "fa": "Fa, 1e-6"}
    print(table([r for r in rows if r["study"] in ("recordings", "stills")], names, {"fa": 1e6}))


if __name__ == "__main__":
    main()

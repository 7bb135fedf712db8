"""`irstd bench loader --memory`: private memory of the loader over a quarter of some shards and over all of them.

A fresh process each runs one epoch of crops with masks and says its RssAnon, the memory that is its own: pages of the
mapped tars, which it shares with the page cache, are not in it.

    python -m irstd.bench.memory SHARDS CROP        # prints one line of JSON
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from irstd.bench.baselines import Scenes, write_shards
from irstd.bench.timing import Report, pinned
from irstd.bench.windows import part
from irstd.data.loader import ClipLoader
from irstd.data.manifest import read_all
from irstd.errors import InputError, WorkError

FRAMES, BATCH = 5, 4
STATUS = Path("/proc/self/status")
GOAL = (
    1.0  # MB of memory at the most for each GB more of shards: the manifest's entries and the marks of what was checked
)
# 4 GB of shards: of each frame the counts, the gradient map and the mask, and a quarter more for the frames before a chunk.
SCENES = Scenes(sequences=24, frames=104)


def measure(folder: Path, shards: Path | None = None, scenes: Scenes | None = None, crop: int = 256) -> Report:
    """Run the loader over `shards` (default: of `scenes`, made in the empty folder `folder`).

    `InputError` on a system that does not say what memory is private.
    """
    if not STATUS.is_file():
        raise InputError("bench loader --memory reads /proc/self/status, which this system has not; run it on Linux")
    with pinned():
        scenes = scenes or SCENES
        source = str(scenes) if shards is None else f"shards in {shards}"
        shards = write_shards(scenes, folder) if shards is None else shards
        few = part(shards, folder / "quarter", _quarter(shards))
        found = [_run(where, crop) for where in (few, shards)]
    rows = [
        {
            "shards, GB": row["bytes"] / 1e9,
            "key frames": row["key_frames"],
            "RssAnon at the start, MB": row["start"] / 1e6,
            "at the end, MB": row["end"] / 1e6,
        }
        for row in found
    ]
    more = (found[1]["bytes"] - found[0]["bytes"]) / 1e9
    grown = (found[1]["end"] - found[0]["end"]) / 1e6
    facts = [
        source,
        f"one epoch each in a fresh process: T={FRAMES}, batches of {BATCH}, crops {crop}x{crop}, gradient maps, masks",
        "start: the first batch is there; end: the last one is",
    ]
    verdict = "held" if grown <= GOAL * more else "missed"
    each = grown * 1e6 / max(found[1]["key_frames"] - found[0]["key_frames"], 1)
    line = (
        f"MEMORY {grown:.1f} MB more at the end for {more:.2f} GB more of shards ({each:.0f} bytes a key frame); "
        f"goal {GOAL:g} MB a GB: {verdict}"
    )
    return Report("private memory of the loader", facts, rows, results=[line])


def _quarter(shards: Path) -> set[str]:
    """The samples of the first tars that hold a quarter of the bytes of the split train together."""
    tars = [shard for manifest in read_all(shards) for shard in manifest.shards("train")]
    chosen: set[str] = set()
    wanted = sum(_bytes(shard) for shard in tars) / 4
    for shard in tars:
        if wanted > 0:
            chosen |= {sample["key"] for sample in shard["samples"]}
            wanted -= _bytes(shard)
    return chosen


def _bytes(shard: dict[str, Any]) -> int:
    """Bytes of a tar's members."""
    return sum(member[1] for sample in shard["samples"] for member in sample["members"].values())


def _run(shards: Path, crop: int) -> dict[str, int]:
    call = [sys.executable, "-m", "irstd.bench.memory", str(shards), str(crop)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise WorkError(f"bench loader: the process that reads {shards} failed: {last}")
    return json.loads(done.stdout)


def epoch(shards: Path, crop: int) -> dict[str, int]:
    """Run one epoch; the bytes of the shards, the key frames, and RssAnon in bytes at the start and at the end."""
    manifests = read_all(shards)
    frames = min(FRAMES, *(m.frames for m in manifests))
    size = sum(_bytes(shard) for manifest in manifests for shard in manifest.shards("train"))
    loader = ClipLoader(shards, "train", frames=frames, batch_size=BATCH, crop=crop)
    start, seen = 0, 0
    for batch in loader:
        start = start or private()
        seen += len(batch["key"])
    return {"bytes": size, "key_frames": seen, "start": start, "end": private()}


def private() -> int:
    """RssAnon of this process in bytes."""
    for line in STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise InputError(f"{STATUS} has no RssAnon; Linux 4.5 or later has it")


if __name__ == "__main__":
    print(json.dumps(epoch(Path(sys.argv[1]), int(sys.argv[2]))))

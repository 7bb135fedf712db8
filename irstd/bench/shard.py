"""`irstd bench shard`: frames a second of the shard writer, against the sum of its parts, each timed alone.

The parts are what nobody can leave out: decode the video, compute the gradient maps, hash what is stored (once), write
it and flush it to the disk. The format asks for more checksums than one (of each frame, of the tar); they are timed as
a part of their own, and a second ratio counts them in. Everything is one thread, the decoder too.

Beside that, two writers side by side against one: processes that are running already, each with tars of its own.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from irstd.bench.baselines import Scenes, write_data
from irstd.bench.timing import Report, interleaved, pinned, timed
from irstd.data import processes, sequence
from irstd.data.gradient import GradientSpec, gradient_map
from irstd.data.shard_plan import Chunk, Stretch, chunks
from irstd.data.shard_writer import frame_crc, write_tar
from irstd.errors import WorkError

FRAMES, CHUNK = 5, 16
TARS = 4  # that one writer writes alone, and two share, in a round
PARTS = ("decode", "gradient", "hash", "write")
CHECKSUMS = "checksums"


def measure(folder: Path, seconds: float, scenes: Scenes | None = None) -> Report:
    """Write one tar of the first sequence of `scenes` again and again for about `seconds`; `folder` is empty."""
    with pinned():
        scenes = scenes or Scenes(sequences=1, frames=32)
        video = sequence.sequences(write_data(scenes, folder), "bench")[0]
        pieces = chunks(Stretch(video, "train", 0, video.frames), FRAMES, CHUNK)
        spec = GradientSpec()
        tar, scratch = folder / "written.tar", folder / "scratch"
        entry = write_tar(tar, pieces, {"gradient": spec.to_dict()})
        stored = tar.read_bytes()
        frames_nHW = np.stack(list(video.read()))
        samples = [_arrays(stored, sample) for sample in entry["samples"]]
        _check(samples, entry, frames_nHW, spec)

        def write() -> None:
            with scratch.open("wb") as file:
                file.write(stored)
                file.flush()
                os.fsync(file.fileno())

        def checksums() -> None:
            hashlib.sha256(stored).hexdigest()
            for arrays in samples:
                for row in range(len(arrays["frames.npy"])):
                    frame_crc(arrays, row)

        def counted(work: Any, times: int = 1) -> Any:
            def side() -> int:
                work()
                return video.frames * times

            return timed(side)

        sides = {
            "writer": counted(lambda: write_tar(tar, pieces, {"gradient": spec.to_dict()})),
            "decode": counted(lambda: list(video.read())),
            "gradient": counted(lambda: gradient_map(frames_nHW, spec.operator, spec.padding)),
            "hash": counted(lambda: hashlib.sha256(stored).hexdigest()),
            "write": counted(write),
            CHECKSUMS: counted(checksums),
        }
        with ExitStack() as stack:
            for name, count in (("one writer", 1), ("two writers", 2)):
                pool = stack.enter_context(processes.pool(count))
                sides[name] = counted(lambda pool=pool: _share(pool, folder, pieces, spec.to_dict()), TARS)
            timing = interleaved(sides, seconds)
    raw = frames_nHW.nbytes
    facts = [
        f"{scenes}; one FFV1 video to one tar, T={FRAMES}, chunks of {CHUNK}",
        f"{len(stored) / raw:.2f} bytes stored for a byte of counts: gradient maps in float16, masks, halos",
        "checked: frames and gradient maps in the tar are those of the video, computed afresh",
        f"{CHECKSUMS}: sha256 of the tar, and crc32 of each frame; hash: sha256 of all bytes, once",
    ]
    rows = [
        {"side": name, "frames/s": timing.rate(name), "ms/frame": 1000 / timing.rate(name)} for name in timing.seconds
    ]
    ratios = [
        ("writer / " + " + ".join(PARTS), timing.ratio("writer", *PARTS)),
        ("writer / the same + checksums", timing.ratio("writer", *PARTS, CHECKSUMS)),
        ("two writers / one writer", timing.ratio("two writers", "one writer")),
    ]
    return Report("frames a second of the shard writer, one thread a process", facts, rows, ratios)


def _share(pool: ProcessPoolExecutor, folder: Path, pieces: list[Chunk], gradient: dict) -> None:
    """Write the tar `TARS` times, by as many processes as the pool has."""
    jobs = [pool.submit(write_tar, folder / f"shared-{n}.tar", pieces, gradient, {}) for n in range(TARS)]
    for job in jobs:
        job.result()


def _arrays(stored: bytes, sample: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a sample, over the bytes of its tar."""
    return {
        name: np.frombuffer(stored, dtype, int(np.prod(shape)), offset).reshape(shape)
        for name, (offset, _, dtype, shape) in sample["members"].items()
        if dtype
    }


def _check(samples: list[dict], entry: dict[str, Any], frames_nHW: np.ndarray, spec: GradientSpec) -> None:
    """`WorkError` where the tar does not hold the video's frames and their gradient maps."""
    maps_nHW = gradient_map(frames_nHW, spec.operator, spec.padding)
    for arrays, sample in zip(samples, entry["samples"], strict=True):
        start = sample["first_frame"] - sample["halo"]
        rows = slice(start, start + len(arrays["frames.npy"]))
        same = np.array_equal(arrays["frames.npy"], frames_nHW[rows])
        if not same or not np.array_equal(arrays["gradient.npy"], maps_nHW[rows]):
            raise WorkError(
                f"bench shard: {sample['key']} in the tar differs from the video; a ratio would mean nothing"
            )

"""MOTChallenge, as TrackEval reads it: `SET-SPLIT/SEQUENCE/{img1,gt/gt.txt,seqinfo.ini}` and `seqmaps/SET-SPLIT.txt`.

Frames and coordinates count from 1. Ignore boxes have conf 0. The labels know no tracks: the id is a box's position in
its frame. Masks and points are left out. An unlabelled sequence has no `gt/`; one with unlabelled frames among labelled
ones is refused, since the format has no word for them.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from irstd.data.exporters.base import Item, class_names, decimal, lost, need_boxes
from irstd.data.sequence import Sequence
from irstd.errors import InputError

NAME = "mot"


def place(item: Item, frame: int) -> PurePosixPath | None:
    """Where a frame's image lies."""
    return _folder(item) / "img1" / f"{frame + 1:06d}.png"


def place_sidecar(item: Item) -> PurePosixPath:
    return _folder(item).with_name(f"{item.sequence.name}.yaml")


def labels(out: Path, set_name: str, items: list[Item]) -> list[str]:
    """Labels, sequence files and maps; what MOT cannot hold is said, or refused."""
    need_boxes(items, "MOT")
    for item in items:
        missing = item.sequence.frames - item.sequence.labelled_frames
        if item.sequence.labelled and missing:
            raise InputError(
                f"{set_name}/{item.sequence.name}: {missing} of {item.sequence.frames} frames are unlabelled, which MOT "
                "cannot tell from empty: export to coco"
            )
    names = class_names(items)
    maps: dict[str, list[str]] = {}
    several = False
    for item in items:
        folder = out / _folder(item)
        folder.mkdir(parents=True)
        (folder / "seqinfo.ini").write_text(_info(item.sequence), encoding="utf-8")
        if not item.sequence.labelled:
            continue
        lines = []
        for frame in item.annotations.frames:
            rows = [(box, 1, names.index(name) + 1) for box, name in zip(frame.boxes, frame.classes, strict=True)]
            rows += [(box, 0, 1) for box in frame.ignore]
            several = several or len(frame.boxes) > 1
            for track, ((x, y, w, h), score, kind) in enumerate(rows, start=1):
                cells = (frame.index + 1, track, *map(decimal, (x + 1, y + 1, w, h)), score, kind, 1)
                lines.append(",".join(map(str, cells)))
        (folder / "gt").mkdir()
        (folder / "gt/gt.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        (folder / "gt/labels.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        maps.setdefault(_benchmark(item), []).append(item.sequence.name)
    (out / "seqmaps").mkdir()
    for benchmark, sequences in maps.items():
        text = "".join(f"{line}\n" for line in ["name", *sequences])
        (out / "seqmaps" / f"{benchmark}.txt").write_text(text, encoding="utf-8")
    tracks = ["track ids are positions in the frame: the labels know no tracks"] if several else []
    return lost(items, "MOT") + tracks


def _benchmark(item: Item) -> str:
    return f"{item.sequence.set}-{item.split}" if item.split else item.sequence.set


def _folder(item: Item) -> PurePosixPath:
    return PurePosixPath(_benchmark(item), item.sequence.name)


def _info(sequence: Sequence) -> str:
    # No rate is made up: numbers by the hour would come of it. TrackEval reads the length alone.
    rate = f"frameRate={decimal(sequence.fps)}\n" if sequence.fps else ""
    return (
        f"[Sequence]\nname={sequence.name}\nimDir=img1\n{rate}seqLength={sequence.frames}\n"
        f"imWidth={sequence.width}\nimHeight={sequence.height}\nimExt=.png\n"
    )

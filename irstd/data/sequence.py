"""A sequence as it lies in `data/<set>/<name>/`: the recording as it came, its annotations, and `sequence.json`."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from irstd.data.annotations import Annotations
from irstd.data.counts import Intensity, intensity_of
from irstd.data.marks import Marks
from irstd.errors import InputError, WorkError, nearest
from irstd.files import canonical_json, read_json, sha256_file, sha256_text

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Intensity", "Sequence", "intensity_of", "load", "sequences", "sets", "slug"]

SCHEMA = 1
SEQUENCE_FILE = "sequence.json"
ANNOTATIONS_FILE = "annotations.json"
SPLITS_FILE = "splits.json"
FRAMES_FOLDER = "frames"
LONGEST_SLUG = 200  # file systems end a name at 255 bytes, and temporary names are longer


@dataclass(frozen=True)
class Sequence:
    """What `sequence.json` says, and access to frames and annotations.

    `source`: names of the recording's files under `folder`, in order (of a headerless one the file and its sidecar);
    `source_sha256`: of the one file, or of the list of names and hashes; `annotations_sha256`: None where unlabelled;
    `frames` are counted by decoding; `fps` frames a second or None; `height`, `width` pixels; `bit_depth` of the counts;
    `dtype` "uint8" or "uint16"; `grey_rule` see `irstd.data.video`; `intensity` in counts; `group` never spans two splits;
    `target_frames` have at least one target; `marks`: frozen and flat frames, see `irstd.data.marks`.
    """

    folder: Path
    set: str
    name: str
    source: tuple[str, ...]
    source_sha256: str
    annotations_sha256: str | None
    frames: int
    fps: float | None
    height: int
    width: int
    bit_depth: int
    dtype: str
    grey_rule: str
    intensity: Intensity
    licence: str | None
    group: str
    labelled_frames: int
    target_frames: int
    notes: tuple[str, ...] = ()
    marks: Marks = field(default_factory=dict)

    @property
    def labelled(self) -> bool:
        """Whether any frame is labelled."""
        return self.labelled_frames > 0

    @property
    def recording(self) -> Path:
        """The video or image, or the folder of frames."""
        first = PurePath(self.source[0])
        return self.folder / (first.parts[0] if len(first.parts) > 1 else first)

    def read(self) -> Iterator[np.ndarray]:
        """The frames in order, uint8 or uint16 [H, W] counts, decoded once through.

        `WorkError` where the recording does not give the frames that `sequence.json` records.
        """
        from irstd.data.video import open_recording

        where = f"{self.set}/{self.name}"
        count = 0
        for frame_HW in open_recording(self.recording, self.bit_depth).frames():
            if frame_HW.shape != (self.height, self.width) or frame_HW.dtype != self.dtype:
                raise WorkError(
                    f"{where}: {self.source[0]} gives frames of {frame_HW.shape} {frame_HW.dtype}, recorded are "
                    f"{(self.height, self.width)} {self.dtype}: restore the recording, or ingest it with --update"
                )
            if count == self.frames:  # before it is looked at: labels and marks end here
                raise WorkError(
                    f"{where}: {self.source[0]} gives more than the {self.frames} frames that are recorded: "
                    "restore the recording, or ingest it with --update"
                )
            yield frame_HW
            count += 1
        if count != self.frames:
            raise WorkError(
                f"{where}: {self.source[0]} gives {count} frames, recorded are {self.frames}: "
                "restore the recording, or ingest it with --update"
            )

    def annotations(self) -> Annotations:
        """The targets; where the sequence has no annotations, every frame is unlabelled."""
        if self.annotations_sha256 is None:
            self.check_annotations()
            return Annotations.build({}, self.frames, self.name, others_labelled=False)
        where = f"{self.set}/{self.name}/{ANNOTATIONS_FILE}"
        text = self._checked_annotations().decode()
        return Annotations.from_json(text, where).validate(self.frames, self.height, self.width, where)

    def check_annotations(self) -> None:
        """`InputError` where the label file is not the one that was ingested.

        Everything downstream is named by the recorded hash: labels edited in place would change results under an old name.
        """
        if self.annotations_sha256 is not None:
            self._checked_annotations()
        elif (self.folder / ANNOTATIONS_FILE).exists():
            raise InputError(
                f"{self.set}/{self.name}/{ANNOTATIONS_FILE}: was put there by hand: the sequence was ingested without "
                "labels; ingest them with the recording and --update, or dvc checkout data.dvc"
            )

    def _checked_annotations(self) -> bytes:
        where = f"{self.set}/{self.name}/{ANNOTATIONS_FILE}"
        try:
            content = (self.folder / ANNOTATIONS_FILE).read_bytes()
        except OSError as error:
            raise InputError(f"{where}: not readable ({error}): restore it, or ingest the sequence again") from None
        if hashlib.sha256(content).hexdigest() != self.annotations_sha256:
            raise InputError(
                f"{where}: is altered (sha256): edit the labels in their source and ingest it again with --update, or "
                "dvc checkout data.dvc"
            )
        return content

    def recompute_sha256(self) -> str:
        """What `source_sha256` is by the files that lie here now. `OSError` where one is missing."""
        hashes = [sha256_file(self.folder / file) for file in self.source]
        several = len(self.source) > 1 or len(PurePath(self.source[0]).parts) > 1
        return joined_sha256([PurePath(file).name for file in self.source] if several else None, hashes)

    def as_json(self) -> dict[str, Any]:
        """The content of `sequence.json`."""
        found = asdict(self) | {"schema": SCHEMA, "source": list(self.source), "notes": list(self.notes)}
        del found["folder"]
        if not self.marks:
            del found["marks"]
        return found

    def to_json(self) -> str:
        return json.dumps(self.as_json(), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def joined_sha256(names: list[str] | None, hashes: list[str]) -> str:
    """`source_sha256` by its definition: the one file's hash, or that of the names and hashes of all its files."""
    if names is None:
        return hashes[0]
    return sha256_text(canonical_json([list(each) for each in zip(names, hashes, strict=True)]))


def load(folder: Path) -> Sequence:
    """The sequence in `folder`; `InputError` where there is none or it is of another schema."""
    path = folder / SEQUENCE_FILE
    try:
        tree = read_json(path)
    except FileNotFoundError:
        raise InputError(f"{folder}: no sequence here ({SEQUENCE_FILE} is missing): ingest the recording") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable ({error}): restore it, or ingest the recording again") from None
    if not isinstance(tree, dict) or tree.pop("schema", None) != SCHEMA:
        raise InputError(f"{path}: not of schema {SCHEMA}: ingest the recording again with this version")
    names = {f.name for f in fields(Sequence)} - {"folder"}
    if set(tree) | {"marks"} != names:
        wrong = ", ".join(sorted((set(tree) | {"marks"}) ^ names))
        raise InputError(f"{path}: missing or unknown: {wrong}; ingest the recording again with this version")
    return Sequence(folder=folder, **tree | {"source": tuple(tree["source"]), "notes": tuple(tree["notes"])})


def sets(data: Path) -> list[str]:
    """Names of the sets in the folder `data`, sorted; [] where the folder is missing."""
    if not data.is_dir():
        return []
    # Names with a dot first are being removed.
    return sorted(
        folder.name
        for folder in data.iterdir()
        if folder.is_dir() and not folder.name.startswith(".") and _folders(folder)
    )


def sequences(data: Path, set: str) -> list[Sequence]:
    """The sequences of a set, sorted by name; `InputError` where there is no such set."""
    folder = data / set
    found = _folders(folder) if re.fullmatch(r"[a-z0-9_-]+", set) and folder.is_dir() else []
    if not found:
        known = sets(data)
        there = f"; there are: {', '.join(known)}" if known else ": ingest recordings first"
        raise InputError(f"no set {set!r} in {data}{nearest(set, known)}{there}")
    return [load(each) for each in found]


def _folders(folder: Path) -> list[Path]:
    # Names with a dot first are being written.
    return sorted(path.parent for path in folder.glob(f"*/{SEQUENCE_FILE}") if not path.parent.name.startswith("."))


def slug(relative_path: str | PurePath) -> str:
    """A name of [a-z0-9_-] for a relative path without its suffix: "Day 1/Cam.2" -> "day-1-cam-2".

    `InputError` where nothing is left, or too much. Different paths may give one slug: who collects them refuses that.
    """
    text = unicodedata.normalize("NFKD", str(relative_path)).encode("ascii", "ignore").decode().lower()
    found = re.sub(r"[^a-z0-9_]+", "-", text).strip("-")
    if not found:
        raise InputError(f"{str(relative_path)!r}: no letter or digit of a-z, 0-9 to make a name from: rename it")
    if len(found) > LONGEST_SLUG:
        raise InputError(f"{str(relative_path)!r}: the name is longer than {LONGEST_SLUG} letters: shorten it")
    return found

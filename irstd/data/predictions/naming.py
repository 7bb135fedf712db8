"""Which key frame a file's name means: sequence and frame, or the name of the original image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from irstd.data.sequence import slug
from irstd.errors import InputError

Key = tuple[str, int]
"""("<set>/<sequence>", frame index)."""
SHOWN = 3
MAPS = (".png", ".npy")


def some(names: Iterable[object]) -> str:
    """Some of many, named."""
    names = [str(name) for name in names]
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


class Names:
    """The key frames that were to be predicted, and the names by which files may call them.

    keys: in the order of scoring. originals: for each "<set>/<sequence>" the file names of its recording, in order, where
    they are known: one a frame names frames, one alone is a video or a still image.

    A frame is `[<set>/]<sequence>/<frame>`, counted from 0 with any number of zeros before it; a still image also
    `[<set>/]<sequence>`; either also the original file's name, with or without its extension. Folders in front do not
    matter. Sequences are meant by their names, or by what gives their names (see `irstd.data.sequence.slug`).
    """

    def __init__(self, keys: Sequence[Key], originals: Mapping[str, Sequence[str]]) -> None:
        self.keys = list(keys)
        self.known = set(self.keys)
        self.originals = {name: [PurePosixPath(file).name for file in files] for name, files in originals.items()}
        self.sequences: dict[str, list[str]] = {}
        for name in dict.fromkeys([*(name for name, _ in self.keys), *originals]):
            self.sequences.setdefault(name.partition("/")[2], []).append(name)
        last: dict[str, int] = {}
        for name, frame in self.keys:
            last[name] = max(frame, last.get(name, 0))
        # What has one frame may be called by its own name alone, or by its original's, with and without extension.
        self.single = {name for name, frame in last.items() if frame == 0}
        self.stills: dict[str, list[str]] = {}
        for name in self.single & self.originals.keys():
            for text in {self.originals[name][0], PurePosixPath(self.originals[name][0]).stem}:
                self.stills.setdefault(text, []).append(name)

    def resolve(self, files: Iterable[PurePosixPath]) -> tuple[dict[Key, PurePosixPath], list[str]]:
        """({key frame: its file}, the files that belong to no key frame). `InputError` for two files of one key frame."""
        found: dict[Key, PurePosixPath] = {}
        extra: list[str] = []
        frames: dict[str, list[PurePosixPath]] = {}
        for file in files:
            if (folder := self.sequence(file.parent)) is not None:
                frames.setdefault(folder, []).append(file)
            elif (still := self._still(file)) is not None:
                _enter(found, (still, 0), file)
            else:
                extra.append(str(file))
        for name, inside in frames.items():
            for file, frame in self._frames(name, inside).items():
                if (name, frame) in self.known:
                    _enter(found, (name, frame), file)
                else:
                    extra.append(str(file))
        return found, extra

    def sequence(self, path: PurePosixPath) -> str | None:
        """The sequence that a path without suffix means, by as many of its last parts as fit. `InputError` for two."""
        parts = path.parts
        for first in range(len(parts)):
            name = _slug("/".join(parts[first:]))
            within = self.sequences.get(name, [])
            if first and parts[first - 1] in {each.partition("/")[0] for each in within}:
                within = [f"{parts[first - 1]}/{name}"]
            if within:
                return _one(within, str(path))
        return None

    def _still(self, file: PurePosixPath) -> str | None:
        name = self.sequence(file.with_name(file.stem)) or self.sequence(file)
        if name is None and (within := self.stills.get(file.stem) or self.stills.get(file.name)):
            name = _one(within, str(file))
        return name if name in self.single else None

    def _frames(self, name: str, files: list[PurePosixPath]) -> dict[PurePosixPath, int | None]:
        """The frames that files in the folder of a sequence mean: all by number, or all by the original names.

        Original names are often numbers too, and need not count from 0: the reading that fits more files holds.
        """
        originals = self.originals.get(name, [])
        by_number = {file: int(file.stem) if file.stem.isdecimal() else None for file in files}
        if len(originals) < 2:
            return by_number
        by_number = {file: frame if frame in range(len(originals)) else None for file, frame in by_number.items()}
        whole = {text: frame for frame, text in enumerate(originals)}
        # `1.bmp` and `1.bmp.png` can only be the original 1.bmp; what `5.png` is, a number may be too.
        if all(file.stem in whole or (file.name in whole and file.suffix not in MAPS) for file in files):
            return {file: whole.get(file.stem, whole.get(file.name)) for file in files}
        places = {PurePosixPath(text).stem: frame for text, frame in whole.items()} | whole
        by_name = {file: places.get(file.stem, places.get(file.name)) for file in files}
        fits = [sum(frame is not None for frame in reading.values()) for reading in (by_number, by_name)]
        if fits[0] == fits[1] and by_number != by_name:
            file = next(file for file in files if by_number[file] != by_name[file])
            raise InputError(
                f"{file}: may be frame {by_number[file]} of {name}, or the original that is frame {by_name[file]}: give all "
                f"{len(originals)} frames, or name it as {originals[by_name[file] or 0]}{file.suffix}"
            )
        return by_number if fits[0] > fits[1] else by_name


def _enter(found: dict[Key, PurePosixPath], key: Key, file: PurePosixPath) -> None:
    if key in found:
        raise InputError(f"{found[key]} and {file}: are both of frame {key[1]} of {key[0]}: keep one of them")
    found[key] = file


def _one(within: list[str], what: str) -> str:
    if len(within) > 1:
        raise InputError(f"{what}: may be of {some(within)}: put it into a folder of the set's name and the sequence's")
    return within[0]


def _slug(text: str) -> str | None:
    try:
        return slug(text)
    except InputError:
        return None

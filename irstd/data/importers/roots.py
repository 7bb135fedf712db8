"""Finding the images that label files name by paths of somebody else's machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath

from irstd.data.importers.base import Listing, some
from irstd.data.importers.folders import collects
from irstd.data.importers.lists import split_in
from irstd.data.stills import is_still
from irstd.errors import InputError


class Roots:
    """The images of a source by the tail of their paths.

    `key`: what of a file's name has to agree, such as its stem where label files leave the suffix out.
    """

    def __init__(self, listing: Listing, key: Callable[[PurePosixPath], str] = lambda path: path.name) -> None:
        self._key = key
        self._named: dict[str, list[PurePosixPath]] = {}
        self._at: dict[tuple[PurePosixPath, str], PurePosixPath] = {}
        for path in listing.files:
            if is_still(path):
                self._named.setdefault(key(path), []).append(path)
                self._at.setdefault((path.parent, key(path)), path)
        self._folders: dict[tuple[str, ...], PurePosixPath] = {}

    def find(self, written: str, where: str, split: str | None = None, *, bare: bool = False) -> PurePosixPath:
        """The image that shares the longest tail with `written`, folder and name at the least.

        The name alone will do where `bare` says so, or the folder written says nothing (`images/`, `train/`). `split`
        decides between images alike, by a folder named for it. `InputError` where there is none, or more than one.
        """
        parts = tuple(part for part in written.replace("\\", "/").split("/") if part not in ("", "."))
        if ".." in parts:
            raise InputError(f"{where}: {written!r} has '..' in it: write the path from the folder of the set")
        name = self._key(PurePosixPath(parts[-1])) if parts else ""
        known = self._folders.get((*parts[:-1], split or ""))
        if known is not None and (known, name) in self._at:
            return self._at[known, name]
        scored = [(_common(parts[:-1], path.parent.parts), path) for path in self._named.get(name, [])]
        best = max((score for score, _ in scored), default=0)
        # A tail of the name alone is not enough to tell data5/0.bmp from data6/0.bmp.
        bare = bare or len(parts) == 1 or (len(parts) > 1 and collects(PurePosixPath(parts[-2])))
        fits = [path for score, path in scored if score == best and (score or bare or _top(path))]
        if len(fits) > 1:
            fits = [path for path in fits if split and split_in(path) == split] or fits
        if not fits:
            shown = "/".join(parts[-2:])
            raise InputError(
                f"{where}: names {written!r}, and no image .../{shown} is in the source: complete the set, or take the "
                "entry out"
            )
        if len(fits) > 1:
            raise InputError(
                f"{where}: {written!r} may be any of {some(fits)}: name its folders too, or ingest them one by one"
            )
        self._folders[(*parts[:-1], split or "")] = fits[0].parent
        return fits[0]


def _common(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    count = 0
    for left, right in zip(reversed(a), reversed(b), strict=False):
        if left != right:
            break
        count += 1
    return count


def _top(path: PurePosixPath) -> bool:
    return len(path.parts) == 1

"""IRSTD-UAV: `images/SEQUENCE/00000000.png`, masks of the same names in `labels/`, lists train.txt and val.txt.

The lists are those of `nnlab` and give the boxes; a frame that they do not name has its mask's components. A recording
starts anew every 50 frames, so the sequences are cut there. Other folders (`matches/`) and the COCO files, which say the
same as the lists, are not read. Source: TDCNet (IVPLabs), README and `dataloader_for_IRSTD_UAV.py`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

from irstd.data.importers import coco, mirsdt, nnlab
from irstd.data.importers.base import Found, Listing
from irstd.data.importers.images import Labels, sequences
from irstd.data.importers.masks import mask_file
from irstd.data.stills import is_still

NAME = "irstd-uav"
COVERS: tuple[str, ...] = (nnlab.NAME, coco.NAME, mirsdt.NAME)
IMAGES, MASKS = "images", "labels"
RESET = 50


def recognise(listing: Listing) -> str | None:
    """Why this is such a source, or None."""
    count = len(_masks(listing))
    return f"{count} masks {MASKS}/SEQUENCE/NAME beside {IMAGES}/SEQUENCE/NAME" if count else None


def read(listing: Listing, list_name: str | None = None) -> Found:
    """A candidate for each stretch of 50 frames. `InputError` where lists or masks do not fit the images."""
    kept = [path for path in listing.files if not is_still(path) or path.parts[0] == IMAGES]
    images = replace(listing, files=tuple(kept))
    name, labels, messages = (
        nnlab.read_lists(images, list_name) if nnlab.list_files(images) else (None, Labels(), ["no lists are here"])
    )
    for image, mask in _masks(listing).items():
        listed = image in labels.images
        targets = labels.images[image] if listed else labels.image(image, str(mask))
        targets.mask, targets.outlined = mask_file(listing, mask, image), not listed
    return sequences(images, labels, name, stills=False, reset=RESET, messages=messages)


def _masks(listing: Listing) -> dict[PurePosixPath, PurePosixPath]:
    """{image: its mask}."""
    found = {}
    for path in listing.files:
        if is_still(path) and path.parts[0] == IMAGES and len(path.parts) == 3:
            mask = PurePosixPath(MASKS, *path.parts[1:])
            if listing.has(mask):
                found[path] = mask
    return found

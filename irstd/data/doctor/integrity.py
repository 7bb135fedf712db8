"""Whether a sequence is still what was ingested."""

from __future__ import annotations

from irstd.data.sequence import Sequence
from irstd.errors import IrstdError


def broken(item: Sequence) -> str | None:
    """What is missing, altered or not readable of a sequence's files, with the way out; None where all is well."""
    try:
        item.annotations()
    except IrstdError as error:
        return altered(item) or str(error)
    return altered(item)


def altered(item: Sequence) -> str | None:
    """The same of the recording alone."""
    for file in item.source:
        if not (item.folder / file).is_file():
            return f"{file} is missing; dvc checkout data.dvc"
    if item.recompute_sha256() != item.source_sha256:
        return f"{item.recording.name} is altered (sha256); dvc checkout data.dvc"
    return None

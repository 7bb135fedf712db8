"""Text that people write labels in: UTF-8 with or without a byte order mark, UTF-16 with one, any line ends."""

from __future__ import annotations

import codecs
import json
import math
import re
from pathlib import Path
from typing import Any

from irstd.errors import InputError

_ENDS = re.compile(r"\r\n|\r|\n")  # str.splitlines would also cut at form feeds and the like, inside of a name


def read_text(path: Path, where: str) -> str:
    """The content of a text file. `InputError` naming the line where it is in no encoding that is certain."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{where}: not readable ({error.strerror}): check its permissions") from None
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        if wide:
            raise InputError(f"{where}: not readable as UTF-16: save it as UTF-8") from None
        line = len(_ENDS.findall(content[: error.start].decode("latin-1"))) + 1
        raise InputError(
            f"{where}: line {line}: byte 0x{content[error.start]:02x} is not UTF-8 (Latin-1?): save it as UTF-8"
        ) from None
    if "\0" in text:
        raise InputError(f"{where}: holds zero bytes: it is no text, or UTF-16 without a mark: save it as UTF-8")
    return text


def read_lines(path: Path, where: str) -> list[tuple[int, str]]:
    """(number from 1, text) of each line that is not blank, without white space at its ends."""
    lines = enumerate(_ENDS.split(read_text(path, where)), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def split_lines(text: str) -> list[str]:
    """All lines, blank ones too, so that their positions are their numbers."""
    return _ENDS.split(text)


def read_mapping(path: Path, where: str) -> dict[str, Any]:
    """A JSON object."""
    text = read_text(path, where)
    if not text.strip():
        raise InputError(f"{where}: the file is empty: copy it again from its source, or remove it")
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not readable as JSON ({error}): copy it again from its source") from None
    if not isinstance(tree, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(tree).__name__}: give the annotation file")
    return tree


def number(value: Any, where: str, what: str) -> float:
    """A finite number from text or JSON; `InputError` naming `what` it is."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{where}: {what} is {value!r}: give a number") from None
    if not math.isfinite(found):
        raise InputError(f"{where}: {what} is {value!r}, not finite: give a number, or remove the entry")
    return found


def whole(value: Any, where: str, what: str) -> int:
    """A whole number from text or JSON; 3.0 is one."""
    found = number(value, where, what)
    if found != int(found):
        raise InputError(f"{where}: {what} is {value!r}: give a whole number")
    return int(found)

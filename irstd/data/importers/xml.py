"""A small, safe XML reader: expat, with every declaration that could expand or fetch anything refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.parsers import expat

from irstd.errors import InputError

DEEPEST = 20


@dataclass
class Element:
    """An element: its tag, its text, the elements in it."""

    tag: str
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def all(self, tag: str) -> list[Element]:
        return [child for child in self.children if child.tag == tag]

    def first(self, tag: str) -> Element | None:
        return next(iter(self.all(tag)), None)

    def text_of(self, tag: str) -> str | None:
        """The text of the first such child, None where it is missing or blank."""
        child = self.first(tag)
        return (child.text.strip() or None) if child else None


def parse(path: Path, where: str) -> Element:
    """The root element. `InputError` naming the line where the file is no XML, or has a DTD."""
    top = Element("")
    open_ = [top]
    parser = expat.ParserCreate()

    def start(tag: str, _: dict[str, str]) -> None:
        if len(open_) > DEEPEST:
            raise InputError(f"{where}: line {parser.CurrentLineNumber}: deeper than {DEEPEST} levels: no annotation")
        element = Element(tag)
        open_[-1].children.append(element)
        open_.append(element)

    def refuse(*_: Any) -> None:
        raise InputError(
            f"{where}: line {parser.CurrentLineNumber}: has a DTD or an entity, which annotations need not: remove it"
        )

    def text(content: str) -> None:
        open_[-1].text += content

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: open_.pop()
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    parser.ExternalEntityRefHandler = refuse
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        raise InputError(f"{where}: not readable as XML ({error}): copy it again from its source") from None
    except (OSError, LookupError) as error:
        raise InputError(f"{where}: not readable ({error}): copy it again from its source") from None
    return top.children[0]

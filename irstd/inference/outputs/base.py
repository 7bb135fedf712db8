"""What every format shares."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from irstd.inference.found import Found


@dataclass(frozen=True)
class About:
    """The recording whose frames come. `video`: the name of its file or folder; `name`: as a slug; `files`: of a folder of frames
    the name of each; sizes in pixels; `fps` or None."""

    video: str
    name: str
    height: int
    width: int
    fps: float | None = None
    files: tuple[str, ...] = ()


class Output(ABC):
    """Files of one format in `folder`."""

    NAME: ClassVar[str]
    FILES: ClassVar[tuple[str, ...]]

    def __init__(self, folder: Path, about: About) -> None:
        self.about = about

    @abstractmethod
    def write(self, found: Found) -> None:
        """The next frame."""

    @abstractmethod
    def close(self, whole: bool = True) -> None:
        """The end; not `whole`: of an attempt that failed, whose files will be thrown away."""

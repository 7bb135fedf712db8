"""What a service takes at the most, and what it answers where it is more."""

from __future__ import annotations

from dataclasses import dataclass

from irstd.errors import InputError


@dataclass(frozen=True)
class Limits:
    """bytes: of a recording; frame_bytes: of a frame of a stream; frames: of a recording; waiting: requests; streams: at once."""

    bytes: int = 1 << 30
    frame_bytes: int = 64 << 20
    frames: int = 10_000
    waiting: int = 8
    streams: int = 8


class Refused(InputError):
    """A request that is answered with `code`, an HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

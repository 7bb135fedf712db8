"""How long a run takes to its first step, and with what: the driver notes times, and the first worker goes on with them."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Beginning:
    """`began`: seconds since 1970. `marks`: when what was reached."""

    began: float = field(default_factory=time.time)
    marks: list[tuple[str, float]] = field(default_factory=list)

    @classmethod
    def of_process(cls) -> Beginning:
        """Counted from when this process was started."""
        import psutil

        return cls(psutil.Process().create_time())

    def reached(self, what: str) -> None:
        self.marks.append((what, time.time()))

    def __str__(self) -> str:
        parts, before = [], self.began
        for what, at in self.marks:
            # Clocks of two nodes may differ.
            parts.append(f"{what} {max(0.0, at - before):.1f}")
            before = at
        return f"first step after {before - self.began:.1f} s: {', '.join(parts)}"

"""Lines from workers, wherever they run, to the driver's terminal (and so into Prefect's run), without Ray's prefixes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import ray


class _Lines:
    """Actor that holds the lines until the driver takes them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def take(self) -> list[str]:
        lines, self.lines = self.lines, []
        return lines


@contextlib.contextmanager
def console(show: Callable[[str], None] = print, interval: float = 0.5) -> Iterator[Callable[[str], None]]:
    """Yields a picklable callable; what workers say through it is shown here while the block runs."""
    actor = ray.remote(_Lines).options(num_cpus=0, max_concurrency=8).remote()
    done = threading.Event()

    def pump() -> None:
        while not done.wait(interval):
            with contextlib.suppress(ray.exceptions.RayError):
                for line in ray.get(actor.take.remote(), timeout=5):
                    show(line)

    thread = threading.Thread(target=pump, daemon=True, name="console")
    thread.start()
    try:
        yield Say(actor)
    finally:
        done.set()
        thread.join(timeout=6)
        with contextlib.suppress(ray.exceptions.RayError):
            for line in ray.get(actor.take.remote(), timeout=5):
                show(line)
        ray.kill(actor)


class Say:
    """Sends a line to the console's actor; never waits for it."""

    def __init__(self, actor: ray.actor.ActorHandle) -> None:
        self.actor = actor

    def __call__(self, line: str) -> None:
        self.actor.say.remote(line)

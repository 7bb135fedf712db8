"""Lines from workers, wherever they run, to the driver's terminal (and so into Prefect's run), without Ray's prefixes.

The actor lives on the driver's node: what takes another node away leaves it, and what takes the driver away takes it too.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray

GATHERED = 0.2
"""Seconds for which a worker gathers lines before it sends them: a network that prints in each step costs no more."""


class _Lines:
    """Actor that holds the lines until the driver takes them, and requests until the driver has answered them."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.once: set[str] = set()
        self.requests: list[tuple[int, Any]] = []
        self.answered: dict[int, tuple[threading.Event, list[Any]]] = {}
        self.lock = threading.Lock()  # calls of many workers run side by side

    def say(self, lines: list[str], once: str | None = None) -> None:
        with self.lock:
            if once not in self.once:
                self.lines += lines
            if once is not None:
                self.once.add(once)

    def take(self) -> tuple[list[str], list[tuple[int, Any]]]:
        with self.lock:
            lines, self.lines = self.lines, []
            requests, self.requests = self.requests, []
        return lines, requests

    def ask(self, request: Any) -> Any:
        """The driver's answer, once it has shown all lines that came before and has answered."""
        waiting: tuple[threading.Event, list[Any]] = (threading.Event(), [])
        with self.lock:
            number = len(self.answered)
            self.answered[number] = waiting
            self.requests.append((number, request))
        waiting[0].wait()
        return waiting[1][0]

    def answer(self, number: int, found: Any) -> None:
        there, answers = self.answered[number]
        answers.append(found)
        there.set()


@contextlib.contextmanager
def console(
    show: Callable[[str], None] = print, interval: float = 0.5, answer: Callable[[Any], Any] | None = None
) -> Iterator[Say]:
    """Yields a picklable callable; what workers say through it is shown here while the block runs.

    `answer` is called here with what a worker asks (`Say.ask`).
    """
    here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
    actor = ray.remote(_Lines).options(num_cpus=0, max_concurrency=64, label_selector=here).remote()
    done = threading.Event()

    def take() -> None:
        with contextlib.suppress(ray.exceptions.RayError):
            lines, requests = ray.get(actor.take.remote(), timeout=5)
            for line in lines:
                show(line)
            for number, request in requests:
                ray.get(actor.answer.remote(number, answer(request) if answer else None), timeout=5)

    def pump() -> None:
        while not done.wait(interval):
            take()

    thread = threading.Thread(target=pump, daemon=True, name="console")
    thread.start()
    try:
        yield Say(actor)
    finally:
        done.set()
        thread.join(timeout=6)
        take()
        ray.kill(actor)


class Say:
    """Sends a line to the console's actor; never waits for it."""

    def __init__(self, actor: ray.actor.ActorHandle) -> None:
        self.actor = actor

    def __call__(self, line: str, once: str | None = None) -> None:
        """`once`: a name under which a line is shown the first time only, though the worker may be started again."""
        self.actor.say.remote([line], once)

    def ask(self, request: Any) -> Any:
        """The driver's answer to `request`; waits for it."""
        return ray.get(self.actor.ask.remote(request))


@contextlib.contextmanager
def spoken(say: Say, mark: str) -> Iterator[None]:
    """What this process prints meanwhile, warnings and logged ones included, is said with `mark` before each line.

    It also goes where it went before, Ray's log of the worker. What code outside Python writes is there alone.
    """
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def send() -> None:
        ended = False
        while not ended:
            found = [lines.get()]
            time.sleep(GATHERED)
            while not lines.empty():
                found.append(lines.get())
            ended = None in found
            with contextlib.suppress(ray.exceptions.RayError):
                if said := [line for line in found if line is not None]:
                    ray.get(say.actor.say.remote(said), timeout=5)

    thread = threading.Thread(target=send, daemon=True, name="spoken")
    thread.start()
    streams = [_Heard(stream, lambda line: lines.put(f"{mark} {line}")) for stream in (sys.stdout, sys.stderr)]

    def close() -> None:
        for stream in streams:
            stream.end()
        lines.put(None)
        thread.join(timeout=5)

    # A worker may be ended from outside while its function runs.
    atexit.register(close)
    try:
        with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
            yield
    finally:
        atexit.unregister(close)
        close()


class _Heard(io.TextIOBase):
    """A stream that passes on what is written, and tells `tell` each whole line that is not empty."""

    def __init__(self, stream: Any, tell: Callable[[str], None]) -> None:
        self.stream, self.tell, self.rest = stream, tell, ""
        self.lock = threading.Lock()

    encoding = "utf-8"

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.stream.write(text)
        with self.lock:
            # A bar that is drawn again and again in one line ends each time with \r: its last state is told.
            *whole, self.rest = (self.rest + text).split("\n")
        for line in whole:
            self._told(line)
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def fileno(self) -> int:
        return self.stream.fileno()

    def end(self) -> None:
        """Tell what has no end of line yet."""
        rest, self.rest = self.rest, ""
        self._told(rest)

    def _told(self, line: str) -> None:
        line = line.rstrip("\r").rpartition("\r")[2].rstrip()
        if line:
            self.tell(line)

"""One recording into its folder of results; many of them go through it in processes, or as Ray tasks.

Files are written below a hidden folder and take their names when all of them are whole; `detection.json`, which says what they
were made of, is taken away before and written last. A call whose model, recording and options are those of an earlier one
finds its files whole and does nothing.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from irstd import __version__
from irstd.commands import show
from irstd.data.inputs import Input, content_sha256, expected_frames
from irstd.errors import InputError, IrstdError, WorkError
from irstd.files import read_json, sha256_file, write_json, writing

SCHEMA = 1
RECORD = "detection.json"
PART = ".detect-"
SPARK = 60  # bars of a recording in the list of all
EVERY = 5.0  # seconds between two lines of progress

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """A recording, and what becomes of it. `package`: a model package's folder; `distance`: of tracks, in pixels, None without;
    `one_thread`: in a process among others."""

    source: Input
    out: Path
    package: Path
    uri: str
    bit_depth: int | None
    formats: tuple[str, ...]
    overlay: bool
    page: bool
    distance: float | None
    device: str
    anew: bool = False
    one_thread: bool = False


def attempt(job: Job) -> dict[str, Any]:
    """`detect`, silently in a process among others; what fails comes back as {"error": one line} beside the name, so that other
    recordings go on."""
    try:
        return detect(job, (lambda line: None) if job.one_thread else show.say)
    except Exception as error:
        return {"recording": job.source.shown, "name": job.source.name, "error": reason(error, job.source.shown)}


def reason(error: Exception, shown: str) -> str:
    """One line, without the recording's name before it."""
    line = (str(error).strip().splitlines() or [""])[0]
    for name in (shown, Path(shown).name):
        line = line.removeprefix(f"{name}: ")
    return line if isinstance(error, IrstdError) else f"unexpected {type(error).__name__}: {line}"


def detect(job: Job, say: Say) -> dict[str, Any]:
    """Look at the recording and write its files; a row of the summary.

    Raises: InputError for a recording that cannot be read, or that the model does not take; WorkError for a full disk.
    """
    from irstd.data.video import open_recording
    from irstd.inference import domain
    from irstd.inference.package import Package

    package = Package.read(job.package)
    source, shown = job.source, job.source.shown
    depth = job.bit_depth or source.bit_depth
    recording = open_recording(source.path, depth, shown, threads=1 if job.one_thread else None)
    notes = domain.check(package.content, recording.bit_depth, recording.height, recording.width)
    for note in notes:
        say(f"{shown}: {note}")
    try:
        content = content_sha256(source.path)
    except OSError as error:
        raise InputError(f"{shown}: cannot be read ({error.strerror})") from None
    made_of = {
        "schema": SCHEMA,
        "model": package.sha256,
        "recording": content,
        "bit_depth": recording.bit_depth,
        "fps": source.fps,
        "tracks": None if job.distance is None else {"distance": job.distance},
    }
    with writing(job.out):
        job.out.mkdir(parents=True, exist_ok=True)
        clear(job.out)
    known = None if job.anew else before(job.out, made_of)
    if known is not None and set(_files(job)) <= set(known["files"]):
        return known["result"] | _shown(job) | {"kept": True, "notes": notes}
    with writing(job.out), part(job.out) as folder:
        result = _written(job, package, recording, folder, say) | _shown(job)
        _publish(job, folder, made_of, known, result)
    return result | {"kept": False, "notes": notes}


def _shown(job: Job) -> dict[str, Any]:
    return {"recording": job.source.shown, "name": job.source.name}


def _files(job: Job) -> list[str]:
    from irstd.inference.outputs import FORMATS
    from irstd.inference.overlay import Overlay
    from irstd.reports.detections import Page

    beside = [*Overlay.FILES] * job.overlay + [*Page.FILES] * job.page
    return [*(file for name in job.formats for file in FORMATS[name].FILES), *beside]


def _written(job: Job, package: Any, recording: Any, folder: Path, say: Say) -> dict[str, Any]:
    """All files of the recording, in `folder`; its numbers."""
    from irstd.commands.detect import survey
    from irstd.data import intensity
    from irstd.data.stills import stills_in
    from irstd.data.video import open_recording
    from irstd.inference.found import look
    from irstd.inference.outputs import FORMATS, About, Output
    from irstd.inference.overlay import Overlay
    from irstd.inference.tracks import Tracks, followed
    from irstd.reports.detections import Page, Strip, bars

    source, detector = job.source, _detector(job.package, package.sha256, job.device, job.one_thread)
    expected, statistics = expected_frames(source.path), {}
    if intensity.resolve(package.content["intensity"]["rule"], recording.bit_depth) == "sequence":
        # Only this rule wants to know the whole recording beforehand.
        statistics, expected, _ = survey(recording)
        recording = open_recording(source.path, recording.bit_depth, source.shown, threads=recording.threads)
    fps = recording.fps or source.fps
    files = tuple(each.name for each in stills_in(source.path)) if source.path.is_dir() else ()
    about = About(source.path.name, source.name, recording.height, recording.width, fps, files)
    frames = look(detector, recording.frames(), recording.bit_depth, statistics)
    if job.distance is not None:
        frames = followed(frames, Tracks(job.distance))
    strip, numbers = Strip(SPARK), {"frames": 0, "detections": 0, "best": 0.0, "tracks": 0}
    progress = Progress(say, source.shown, expected)
    outputs: list[Output] = [FORMATS[name](folder, about) for name in job.formats]
    whole = False
    try:
        if job.overlay:
            outputs.append(Overlay(folder, about))
        if job.page:
            outputs.append(Page(folder, about, facts(job, package), job.distance is not None))
        for found in frames:
            for output in outputs:
                output.write(found)
            count, best = len(found.detections), max(map(float, found.detections.scores_N), default=0.0)
            strip.add(found.index, count, best)
            numbers["frames"] += 1
            numbers["detections"] += count
            numbers["best"] = max(numbers["best"], round(best, 5))
            # Tracks are numbered from 1, one after the other.
            numbers["tracks"] = max([numbers["tracks"], *(number for number in found.tracks or () if number)])
            progress.show(numbers["frames"])
        whole = True
    finally:
        for output in outputs:
            output.close(whole)
    shape = {"height": recording.height, "width": recording.width, "fps": fps, "grey_rule": recording.grey_rule}
    drawn = [[each["x"], each["width"], each["height"], each["step"]] for each in bars(strip) if each["height"]]
    return numbers | shape | {"bars": drawn} | ({} if job.distance is not None else {"tracks": None})


def facts(job: Job, package: Any) -> list[tuple[str, str]]:
    """What pages say of the model and of how it was run."""
    found = [
        ("model", job.uri),
        ("package", package.sha256),
        ("threshold", package.threshold),
        ("intensity rule", package.content["intensity"]["rule"]),
        ("frames of a clip", str(package.config.model.frames)),
    ]
    if job.distance is not None:
        found.append(("tracks", f"centres at most {job.distance:g} px from where they are expected"))
    return found


@lru_cache(maxsize=1)
def _detector(folder: Path, sha256: str, device: str, one_thread: bool) -> Any:
    """A process keeps the model for its next recording."""
    import torch

    from irstd.inference.detector import Detector

    if one_thread:
        torch.set_num_threads(1)
    return Detector.load(folder, where(device))


def where(device: str) -> str:
    """The device by its name in PyTorch; auto: the GPU where there is one. `InputError` for one that is not here."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise InputError(f"--device {device}: unknown; give auto, cpu, cuda or cuda:N")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {device}: this machine has {torch.cuda.device_count()} GPUs; give auto or cpu")
    return device


class Progress:
    """A line every few seconds, with an estimate where the number of frames is about known."""

    def __init__(self, say: Say, shown: str, expected: int | None) -> None:
        self._say, self._shown, self._expected = say, shown, expected
        self._started = self._last = time.monotonic()

    def show(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last < EVERY:
            return
        self._last = now
        if self._expected and self._expected >= done:
            left = (now - self._started) / done * (self._expected - done)
            self._say(f"detect: {self._shown}: frame {done} of {self._expected}, about {left:.0f} s left")
        else:
            self._say(f"detect: {self._shown}: frame {done}, {done / (now - self._started):.1f} a second")


def before(out: Path, made_of: dict[str, Any]) -> dict[str, Any] | None:
    """The record of files in `out` that are whole and were made of the same; None where there are none."""
    try:
        record = read_json(out / RECORD)
        if record["made_of"] != made_of:
            return None
        whole = all(sha256_file(out / name) == sha256 for name, sha256 in record["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record if whole else None


def _publish(job: Job, folder: Path, made_of: dict[str, Any], known: dict | None, result: dict[str, Any]) -> None:
    """Give the files their names. What an earlier call made of something else goes; of the same, it stays."""
    with suppress(OSError, ValueError, AttributeError):
        for name in [] if known else read_json(job.out / RECORD).get("files", {}):
            if Path(name).name == name:  # nobody's edit leads elsewhere
                (job.out / name).unlink(missing_ok=True)
    (job.out / RECORD).unlink(missing_ok=True)
    files = dict(known["files"]) if known else {}
    for path in sorted(folder.iterdir()):
        if path.name in _files(job):
            files[path.name] = sha256_file(path)
            path.replace(job.out / path.name)
    record = {"irstd": __version__, "uri": job.uri, "made_of": made_of, "files": files, "result": result}
    write_json(job.out / RECORD, record)


@contextmanager
def part(out: Path) -> Iterator[Path]:
    """A hidden folder for files that are not whole yet; gone afterwards, whatever happens."""
    folder = Path(tempfile.mkdtemp(prefix=PART, dir=out))
    lock = FileLock(folder / "lock")
    try:
        with lock:
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear(out: Path) -> None:
    """Remove what killed calls left in `out`; the folder of one that lives is locked."""
    for lock in out.glob(f"{PART}*/lock"):
        with suppress(Timeout, OSError), FileLock(lock, timeout=0):
            shutil.rmtree(lock.parent, ignore_errors=True)


def failed(rows: list[dict[str, Any]]) -> WorkError | None:
    """The error with which a call for many recordings ends, where some of them failed."""
    broken = [row for row in rows if row.get("error")]
    if not broken:
        return None
    return WorkError(
        f"{len(broken)} of {len(rows)} recordings failed; the others are done; the same command does the rest"
    )

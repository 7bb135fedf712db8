"""The page of `irstd detect --page`: what was found in a recording, when, where and how surely; and the list of many such pages.

Whatever a recording's length, the page holds so many bars, pictures and tracks: bars and the stretches of time that a picture
stands for double their length when there would be more of them.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from irstd import __version__
from irstd.data.doctor.contrast import Target
from irstd.data.doctor.findings import many
from irstd.data.doctor.pictures import Drawn, FramePictures, Picture, cut_out
from irstd.files import write_atomic
from irstd.inference.found import Found
from irstd.inference.outputs.base import About, Output
from irstd.inference.tracks import LAG, PATIENCE
from irstd.reports.page import data_uri, figure, render

BARS, PICTURES, CUTS = 240, 24, 4  # at most; cut-outs of a picture
TRACKS, LANES, POINTS = 200, 60, 64  # in the table, in the chart, of a track's way
ALLOWANCE = 900_000  # bytes of all pictures of frames
ROOM = 2.0  # px between a target and the frame drawn around it
DRAWN = 40  # detections of a picture that are drawn


@dataclass
class Bar:
    """A stretch of frames: how many there are, their detections, the most of one frame, the best score."""

    frames: int = 0
    detections: int = 0
    most: int = 0
    best: float = 0.0

    def add(self, other: Bar) -> Bar:
        return Bar(
            self.frames + other.frames,
            self.detections + other.detections,
            max(self.most, other.most),
            max(self.best, other.best),
        )


class Strip:
    """Detections over time in at most `most` bars of `every` frames each."""

    def __init__(self, most: int = BARS) -> None:
        self.most, self.every = most, 1
        self.bars: list[Bar] = []

    def add(self, index: int, count: int, best: float) -> None:
        while index // self.every >= self.most:
            pairs = [self.bars[i : i + 2] for i in range(0, len(self.bars), 2)]
            self.bars = [pair[0].add(pair[1]) if len(pair) > 1 else pair[0] for pair in pairs]
            self.every *= 2
        if index // self.every == len(self.bars):
            self.bars.append(Bar())
        self.bars[-1] = self.bars[-1].add(Bar(1, count, count, best))


@dataclass
class Way:
    """A track: `seen` frames from `first` to `last`, its best score, and its way: centres of every `every`-th detection."""

    number: int
    first: int
    last: int = 0
    seen: int = 0
    best: float = 0.0
    every: int = 1
    points: list[tuple[float, float]] = field(default_factory=list)

    def add(self, index: int, box: Any, score: float) -> None:
        if self.seen % self.every == 0:
            x, y, w, h = map(float, box)
            self.points.append((round(x + w / 2, 1), round(y + h / 2, 1)))
            if len(self.points) > POINTS:
                self.points, self.every = self.points[::2], self.every * 2
        self.last, self.seen, self.best = index, self.seen + 1, max(self.best, float(score))


class Ways:
    """The `TRACKS` longest tracks of a recording of any length; `count` of all of them."""

    def __init__(self) -> None:
        self.count = 0
        self._running: dict[int, Way] = {}
        self._ended: list[tuple[int, int, Way]] = []

    def add(self, found: Found) -> None:
        for box, score, number in zip(
            found.detections.boxes_N4, found.detections.scores_N, found.tracks or (), strict=found.tracks is not None
        ):
            if number is not None:
                if number not in self._running:
                    self.count += 1
                    self._running[number] = Way(number, found.index)
                self._running[number].add(found.index, box, score)
        for number, way in list(self._running.items()):
            if way.last < found.index - PATIENCE - LAG:
                self._end(self._running.pop(number))

    def _end(self, way: Way) -> None:
        heapq.heappush(self._ended, (way.seen, -way.number, way))
        if len(self._ended) > TRACKS:
            heapq.heappop(self._ended)

    def longest(self) -> list[Way]:
        every = [*(way for _, _, way in self._ended), *self._running.values()]
        return sorted(every, key=lambda way: (-way.seen, way.number))[:TRACKS]


class Scenes:
    """Of each of at most `PICTURES` stretches of time the frame with the surest detection."""

    def __init__(self) -> None:
        self.every = 1
        self._pictures = FramePictures(ALLOWANCE)
        self._best: dict[int, tuple[float, int]] = {}
        self._cuts: dict[int, list[Picture]] = {}
        self._tracks: dict[int, list[int | None]] = {}

    def add(self, found: Found, best: float) -> None:
        while found.index // self.every >= PICTURES:
            self._halve()
        slot = found.index // self.every
        if slot in self._best:
            if best <= self._best[slot][0]:
                return
            self._forget(self._best[slot][1])
        self._best[slot] = best, found.index
        boxes = found.detections.boxes_N4[:DRAWN].tolist()
        self._pictures.keep(found.index, found.frame_HW, Drawn(boxes))
        self._tracks[found.index] = list((found.tracks or [])[:DRAWN])
        self._cuts[found.index] = [
            cut_out(found.index, found.frame_HW, _target(box, *found.frame_HW.shape), Drawn(boxes), f"{score:.2f}")
            for box, score in zip(boxes[:CUTS], found.detections.scores_N, strict=False)
        ]

    def _halve(self) -> None:
        self.every *= 2
        found: dict[int, tuple[float, int]] = {}
        for slot, (best, index) in sorted(self._best.items()):
            other = found.get(slot // 2)
            if other is not None and other[0] >= best:
                self._forget(index)
                continue
            if other is not None:
                self._forget(other[1])
            found[slot // 2] = best, index
        self._best = found

    def _forget(self, index: int) -> None:
        for kept in (self._pictures.kept, self._cuts, self._tracks):
            del kept[index]

    def encoded(self, height: int, width: int) -> list[tuple[Picture, list[Picture], list[int | None]]]:
        """(the frame, its cut-outs, the tracks of what is drawn) in order."""
        pictures = self._pictures.encoded(height, width)
        return [(each, self._cuts[each.frame], self._tracks[each.frame]) for each in pictures]


def _target(box: list[float], height: int, width: int) -> Target:
    x, y, w, h = box
    left, top = min(max(0, int(x)), width - 1), min(max(0, int(y)), height - 1)
    right, bottom = max(left + 1, min(width, round(x + w))), max(top + 1, min(height, round(y + h)))
    return Target(left, top, right, bottom, size=w * h)


class Page(Output):
    """`page.html` beside the other files. facts: (name, text) lines about the model and how it was run."""

    NAME = "page"
    FILES = ("page.html",)

    def __init__(self, folder: Path, about: About, facts: list[tuple[str, str]], tracked: bool) -> None:
        super().__init__(folder, about)
        self._path, self._facts, self._tracked = folder / self.FILES[0], facts, tracked
        self.strip, self._ways, self._scenes = Strip(), Ways(), Scenes()
        self.frames = self.detections = self.hits = 0

    def write(self, found: Found) -> None:
        count, best = len(found.detections), max(map(float, found.detections.scores_N), default=0.0)
        self.frames, self.detections, self.hits = self.frames + 1, self.detections + count, self.hits + (count > 0)
        self.strip.add(found.index, count, best)
        self._scenes.add(found, best)
        if found.tracks is not None:
            self._ways.add(found)

    def close(self, whole: bool = True) -> None:
        if whole:
            write_atomic(self._path, self.text())

    def text(self) -> str:
        about, ways = self.about, self._ways.longest()
        scenes = self._scenes.encoded(about.height, about.width)
        tiles = [("frames", f"{self.frames:,}"), ("detections", f"{self.detections:,}")]
        tiles += [("frames with detections", f"{self.hits:,}")]
        tiles += [("tracks", f"{self._ways.count:,}")] if self._tracked else []
        if about.fps and self.frames > 1:
            tiles.append(("length", clock(self.frames / about.fps)))
        return render(
            "detections.html",
            version=__version__,
            about=about,
            facts=self._facts,
            tiles=tiles,
            frames=self.frames,
            every=self.strip.every,
            bars=bars(self.strip),
            most=max((bar.most for bar in self.strip.bars), default=0),
            ticks=ticks(self.frames, about.fps),
            tracked=self._tracked,
            ways=ways,
            lanes=[_lane(way, at, self.frames) for at, way in enumerate(sorted(ways[:LANES], key=lambda w: w.first))],
            count=self._ways.count,
            scenes=[_scene(*each) for each in scenes],
            stretch=self._scenes.every,
            ground=data_uri(scenes[0][0].data, "jpeg") if scenes else None,
        )


def bars(strip: Strip) -> list[dict[str, Any]]:
    """Of a strip of 1000 x 100: place, width, height and colour step of each bar, and what it says."""
    most = max(1, *(bar.most for bar in strip.bars)) if strip.bars else 1
    step = 1000 / max(len(strip.bars), 1)
    found = []
    for at, bar in enumerate(strip.bars):
        first = at * strip.every
        frames = f"frame {first}" if bar.frames == 1 else f"frames {first} to {first + bar.frames - 1}"
        counted = f"{bar.detections:,} detections" + (f", {bar.most} in one frame at most" if bar.frames > 1 else "")
        said = f"{frames}: {counted}" + (f", best score {bar.best:.2f}" if bar.detections else "")
        tall = max(4.0, 100 * bar.most / most) if bar.most else 0.0
        found.append(
            {
                "x": round(at * step, 2),
                "width": round(max(step - (0.4 if len(strip.bars) < 150 else 0), 0.5), 2),
                "height": round(tall, 1),
                "step": shade(bar.best),
                "said": said,
            }
        )
    return found


def shade(score: float) -> int:
    """A score's step of colour, 0 to 4."""
    return min(4, max(0, int(score * 5)))


def ticks(frames: int, fps: float | None) -> list[tuple[float, str]]:
    """(place in percent, label) at quarters of the recording."""
    places = [0.0, 0.25, 0.5, 0.75, 1.0] if frames > 8 else [0.0, 1.0]
    found = []
    for place in places:
        index = round(place * max(frames - 1, 0))
        found.append((100 * place, f"{index:,}" + (f" ({clock(index / fps)})" if fps else "")))
    return found


def clock(seconds: float) -> str:
    """1:02:03, 2:03, or 2.3 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _lane(way: Way, at: int, frames: int) -> dict[str, Any]:
    scale = 1000 / max(frames, 1)
    return {
        "x": round(way.first * scale, 2),
        "width": round(max((way.last + 1 - way.first) * scale, 2), 2),
        "y": at * 10,
        "hue": way.number % 6,
        "said": f"track {way.number}: frames {way.first} to {way.last}, seen in {way.seen}, best score {way.best:.2f}",
    }


def _scene(picture: Picture, cuts: list[Picture], tracks: list[int | None]) -> dict[str, Any]:
    numbers = tracks or [None] * len(picture.drawn.boxes)
    return {
        "frame": picture.frame,
        "uri": data_uri(picture.data, picture.kind),
        "width": picture.width,
        "height": picture.height,
        "boxes": [(*_around(box), number) for box, number in zip(picture.drawn.boxes, numbers, strict=True)],
        "cuts": [
            {
                "uri": data_uri(cut.data, cut.kind),
                "side": cut.width,
                "score": cut.caption,
                "track": number,
                "boxes": [_around(box) for box in cut.drawn.boxes],
            }
            for cut, number in zip(cuts, numbers, strict=False)
        ],
    }


def _around(box: list[float]) -> tuple[float, ...]:
    x, y, w, h = box
    return tuple(round(value, 1) for value in (x - ROOM, y - ROOM, w + 2 * ROOM, h + 2 * ROOM))


def overview(rows: list[dict[str, Any]], facts: list[tuple[str, str]]) -> str:
    """The list of many recordings: rows as `irstd detect` has them, each with a link to its page, or the reason why it failed."""
    done = [row for row in rows if not row.get("error")]
    tiles = [
        ("recordings", f"{len(rows):,}"),
        ("frames", f"{sum(row['frames'] for row in done):,}"),
        ("detections", f"{sum(row['detections'] for row in done):,}"),
    ]
    failed = len(rows) - len(done)
    return render(
        "overview.html",
        version=__version__,
        facts=facts,
        tiles=tiles + ([("failed", f"{failed:,}")] if failed else []),
        rows=rows,
        tracked=any(row.get("tracks") is not None for row in rows),
        recordings=many(len(rows), "recording"),
        figure=figure,
    )

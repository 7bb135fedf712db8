"""Each kind of finding is found where it is, named with its frame, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
from recordings import write_image, write_video
from test_duplicates import again, placed, scene
from test_duplicates import source as stills

from irstd.config import WAIVABLE, ShardConfig, SplitConfig, Waiver
from irstd.data import rle, sequence
from irstd.data.annotations import Annotations, FrameTargets
from irstd.data.contrast import scr as signal_to_clutter
from irstd.data.doctor import contrast, repeats
from irstd.data.doctor.contrast import ContrastMeter, Offsets, targets_in
from irstd.data.doctor.examination import examine
from irstd.data.doctor.findings import KINDS, NOT_WAIVABLE, SEVERITIES, Finding, waive
from irstd.data.ingest import ingest
from irstd.errors import WorkError

FRAMES, HEIGHT, WIDTH = 40, 64, 80
EMPTY = (36, 37, 38, 39)
# What the scene below has by construction: no licence is stated.
ALWAYS = {"no-licence"}


@dataclass
class Scene:
    """A recording of 14 bits in which everything is well: drifting clouds, noise, one target of 5 x 5 px."""

    name: str = "a"
    seed: int = 0
    frames_THW: np.ndarray = field(init=False)
    rows: dict[int, list[tuple[float, ...]]] = field(init=False)
    suffix: str = ".mkv"
    extra: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        canvas = cv2.resize(
            rng.standard_normal((12, 20), np.float32), (WIDTH + FRAMES, HEIGHT), interpolation=cv2.INTER_CUBIC
        )
        frames, self.rows = [], {}
        for t in range(FRAMES):
            frame_HW = 3000 + 150 * canvas[:, t : t + WIDTH] + rng.normal(0, 20, (HEIGHT, WIDTH))
            if t not in EMPTY:
                x, y = 20 + t, 30 + t // 2
                patch = np.array([0.6, 1, 1, 1, 0.6])
                frame_HW[y : y + 5, x : x + 5] += 1500 * np.outer(patch, patch)
                self.rows[t] = [(x, y, 5, 5)]
            frames.append(np.rint(frame_HW))
        self.frames_THW = np.stack(frames).astype(np.uint16)

    def write(self, folder: Path) -> None:
        frames_THW = self.frames_THW
        write_video(folder / f"{self.name}{self.suffix}", frames_THW)
        lines = [f"{t},{x},{y},{w},{h}" for t, boxes in self.rows.items() for x, y, w, h in boxes]
        if self.rows:
            (folder / f"{self.name}.csv").write_text("\n".join(["frame,x,y,w,h", *lines]) + "\n")
        for name, text in self.extra.items():
            (folder / name).write_text(text)


def found(tmp_path: Path, *scenes: Scene, set: str = "s", config: ShardConfig | None = None) -> list[Finding]:
    source = tmp_path / "source"
    source.mkdir(parents=True, exist_ok=True)
    for each in scenes:
        each.write(source)
    ingest(source, set, tmp_path / "data", tmp_path / "staging")
    (report,) = examine(tmp_path / "data", [set], config or ShardConfig())
    # Every finding that names a frame has its picture.
    for finding in report.findings:
        if finding.frame is not None and finding.sequence is not None:
            (survey,) = [s for s in report.surveys if s.sequence.name == finding.sequence]
            assert survey.picture(finding.frame) is not None, finding
    return report.findings


def kinds(findings: list[Finding]) -> set[str]:
    return {finding.kind for finding in findings}


def test_a_sound_recording_has_no_finding(tmp_path: Path) -> None:
    assert kinds(found(tmp_path, Scene())) == ALWAYS


def _duplicate(s: Scene) -> None:
    s.rows[7] *= 2


def _whole(s: Scene) -> None:
    s.rows[7].append((0, 0, WIDTH, HEIGHT))


def _large(s: Scene) -> None:
    s.rows[7].append((10, 10, 40, 30))


def _tiny(s: Scene) -> None:
    s.rows[7].append((50.2, 10.2, 0.5, 0.5))


def _outside(s: Scene) -> None:
    s.rows[7].append((-4, 10, 6, 6))


def _border(s: Scene) -> None:
    s.rows[7].append((0, 10, 6, 6))


def _static(s: Scene) -> None:
    s.rows = dict.fromkeys(s.rows, [(20, 30, 40, 30)])


def _jumps(s: Scene) -> None:
    # Frames 0 to 35, taken in the order of their names: 0, 1, 10, 11, ...
    order = sorted(s.rows, key=str)
    s.rows = {
        t: [(boxes[0][0] * 1.2, *boxes[0][1:])] for t, boxes in zip(s.rows, [s.rows[t] for t in order], strict=True)
    }


def _frozen(s: Scene) -> None:
    s.frames_THW[7:9] = s.frames_THW[6]
    s.rows[7] = s.rows[8] = [tuple(v + 1 for v in s.rows[6][0][:2]) + (5, 5)]  # labels that were interpolated


def _conflict(s: Scene) -> None:
    s.frames_THW[7] = s.frames_THW[6]
    del s.rows[7]


def _moved(s: Scene) -> None:
    s.frames_THW[7] = s.frames_THW[6]
    s.rows[7] = [(10, 50, 5, 5)]


def _flat(s: Scene) -> None:
    s.frames_THW[37] = 3000


def _flat_targets(s: Scene) -> None:
    s.frames_THW[7] = 3000


def _shifted(s: Scene) -> None:
    s.rows = {t: [(x + 2, y - 1, w, h)] for t, [(x, y, w, h)] in s.rows.items()}


def _dim(s: Scene) -> None:
    """One more box, where the mean is that of its surroundings."""

    def scr(x: int) -> float:
        mask_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
        mask_HW[8:12, x : x + 4] = 1
        return signal_to_clutter(s.frames_THW[7], mask_HW)

    s.rows[7].append((min(range(4, WIDTH - 8), key=scr), 8, 4, 4))


def _saturated(s: Scene) -> None:
    np.minimum(s.frames_THW, int(np.percentile(s.frames_THW, 97)), out=s.frames_THW)


def _steps(s: Scene) -> None:
    s.frames_THW = s.frames_THW // 2 * 2  # more than 256 levels


def _stretched(s: Scene) -> None:
    grey = np.clip((s.frames_THW.astype(float) - 2400) / 12, 0, 255).astype(np.uint8)
    s.frames_THW = np.round(np.linspace(0, 1, 256) ** 1.1 * 16000).astype(np.uint16)[grey]


def _eight(s: Scene) -> None:
    s.frames_THW = np.clip((s.frames_THW.astype(float) - 2400) / 12, 0, 255).astype(np.uint16)
    s.frames_THW[0, 0, 0] = 254


def _stuck(s: Scene) -> None:
    s.frames_THW[:, 50, 10] = 9000


def _text(s: Scene) -> None:
    s.frames_THW[:, 2:8, 2:20] = 4000


def _lossy(s: Scene) -> None:
    s.frames_THW = np.clip((s.frames_THW.astype(float) - 2400) / 12, 0, 254).astype(np.uint8)
    s.suffix = ".avi"


def _full(s: Scene) -> None:
    for t in EMPTY:
        s.rows[t] = [(30, 40, 5, 5)]
        s.frames_THW[t, 41:44, 31:34] += 1500
    s.rows = {t: [(boxes[0])] for t, boxes in s.rows.items()}


def _unlabelled(s: Scene) -> None:
    s.rows = {}


@pytest.mark.parametrize(
    ("change", "kind", "frame", "others"),
    [
        (_duplicate, "duplicate-boxes", 7, set()),
        (_whole, "whole-frame", 7, {"border"}),
        (_large, "large", 7, set()),
        (_tiny, "tiny", 7, set()),
        (_outside, "outside", 7, {"border"}),
        (_border, "border", 7, set()),
        (_static, "static-labels", 0, {"large"}),
        (_jumps, "jumps", 12, {"border", "outside"}),
        (_frozen, "frozen", 7, set()),
        (_conflict, "frozen-conflict", 7, {"frozen"}),
        (_moved, "frozen-conflict", 7, {"frozen", "jumps"}),
        (_flat, "flat", 37, set()),
        (_flat_targets, "flat-targets", 7, {"flat", "dim-targets"}),
        (_shifted, "shifted-labels", 0, set()),
        (_dim, "dim-targets", 7, set()),
        (_saturated, "saturated", None, set()),
        (_steps, "squeezed", 0, set()),
        (_stretched, "squeezed", 0, set()),
        (_eight, "eight-bits", 0, set()),
        (_stuck, "stuck-pixels", 0, set()),
        (_text, "static-area", 0, set()),
        (_lossy, "lossy", None, set()),
        (_full, "no-empty-frames", None, {"jumps"}),
        (_unlabelled, "unlabelled", None, set()),
    ],
)
def test_what_is_wrong_is_found(
    change: Callable[[Scene], None], kind: str, frame: int | None, others: set[str], tmp_path: Path
) -> None:
    each = Scene()
    change(each)
    findings = found(tmp_path, each)
    (own,) = [finding for finding in findings if finding.kind == kind]
    assert kind in kinds(findings) <= {kind} | others | ALWAYS | ({"dim-targets"} if kind in _BLIND else set())
    if frame is not None:
        assert own.frame == frame and own.sequence == "a"


# Boxes of these lie where no target is.
_BLIND = {
    "large",
    "tiny",
    "outside",
    "border",
    "jumps",
    "whole-frame",
    "static-labels",
    "frozen-conflict",
    "no-empty-frames",
}


def test_a_recording_with_more_frames_than_were_ingested_is_a_finding(tmp_path: Path) -> None:
    each = Scene()
    found(tmp_path, each)
    write_video(tmp_path / "data" / "s" / "a" / "a.mkv", np.concatenate([each.frames_THW] * 2))
    (report,) = examine(tmp_path / "data", ["s"], ShardConfig())
    assert "unreadable" in kinds(report.findings)
    with pytest.raises(WorkError, match=f"a.mkv gives more than the {FRAMES} frames that are recorded"):
        list(report.surveys[0].sequence.read())


def test_masks_and_boxes_that_name_other_targets(tmp_path: Path) -> None:
    each = Scene()
    each.write(tmp_path / "source")
    entries = []
    for t in range(FRAMES):
        mask_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
        boxes = each.rows.get(t, [])
        for x, y, w, h in boxes:
            mask_HW[y : y + h, x : x + w] = 1
        entries.append(FrameTargets(t, True, [(5, 5, 4, 4)] if t == 9 else boxes, mask=rle.encode(mask_HW)))
    (tmp_path / "source" / "a.csv").unlink()
    (tmp_path / "source" / "a.annotations.json").write_text(Annotations(entries, masks=True).to_json())
    ingest(tmp_path / "source", "s", tmp_path / "data", tmp_path / "staging", format="native")
    (report,) = examine(tmp_path / "data", ["s"], ShardConfig())
    (finding,) = [f for f in report.findings if f.kind == "mask-mismatch"]
    assert finding.frame == 9 and finding.count == 1
    assert kinds(report.findings) - {"dim-targets", "jumps"} == {"mask-mismatch"} | ALWAYS


def test_a_set_as_a_whole(tmp_path: Path) -> None:
    """Sizes, a folder of frames without a rate, colour."""
    rng = np.random.default_rng(0)
    for t in range(3):
        write_image(tmp_path / "source" / "folder" / f"{t}.png", rng.integers(0, 200, (30, 40), np.uint8))
    colour_HWC = np.repeat(rng.integers(0, 200, (20, 24, 1), np.uint8), 3, axis=2)
    colour_HWC[:10, :, 2] += 7
    write_image(tmp_path / "source" / "one.png", colour_HWC)
    findings = found(tmp_path)
    by_kind = {finding.kind: finding for finding in findings}
    assert {*by_kind} == {"sizes", "no-rate", "colour", "unlabelled"} | ALWAYS
    assert "folder" in by_kind["no-rate"].message and by_kind["sizes"].count == 2
    assert "in 50% of the pixels" in by_kind["colour"].message and "by up to 7" in by_kind["colour"].message


def test_the_same_view_across_splits_and_within_one(tmp_path: Path) -> None:
    views = [scene(seed) for seed in range(3)]
    stills(
        tmp_path / "source",
        {"a": views[0], "b": again(views[0]), "c": again(views[0], 6), "d": views[1], "e": views[2]},
    )
    ingest(tmp_path / "source", "s", tmp_path / "data", tmp_path / "staging")
    placed(tmp_path / "data", "s", {"a": "train", "b": "test", "c": "test", "d": "val", "e": "train"})

    def pairs(config: ShardConfig) -> dict[tuple[str, str], Finding]:
        (report,) = examine(tmp_path / "data", ["s"], config)
        kept = [f for f in report.findings if f.kind in ("across-splits", "repeated-view")]
        for finding in kept:
            shown = {s.sequence.name: s for s in report.surveys}[finding.also[0]]
            assert shown.picture(finding.also[1]) is not None
        return {(f.sequence, f.also[0]): f for f in kept}

    found = pairs(ShardConfig())
    assert {key: f.kind for key, f in found.items()} == {
        ("a", "b"): "across-splits",
        ("a", "c"): "across-splits",
        ("b", "c"): "repeated-view",
    }
    assert found["a", "b"].stops and found["b", "c"].severity == "note"
    found = pairs(ShardConfig(split=SplitConfig(allow_duplicates=["s/b+a"])))
    assert found["a", "b"].waived and not found["a", "b"].stops and found["a", "c"].stops


def test_one_recording_in_two_sets(tmp_path: Path) -> None:
    images = {name: scene(seed) for seed, name in enumerate("abc")}
    for name in ("one", "two"):
        stills(tmp_path / name, images)
        ingest(tmp_path / name, name, tmp_path / "data", tmp_path / "staging")
    wanted = {"a": "train", "b": "val", "c": "test"}
    placed(tmp_path / "data", "one", wanted)
    placed(tmp_path / "data", "two", wanted)
    both = examine(tmp_path / "data", ["one", "two"], ShardConfig())
    assert not [f for report in both for f in report.findings if f.kind == "same-recording"]
    placed(tmp_path / "data", "two", {"a": "test", "b": "val", "c": "train"})
    both = examine(tmp_path / "data", ["one", "two"], ShardConfig())
    (finding,) = [f for report in both for f in report.findings if f.kind == "same-recording"]
    assert finding.set == "one" and finding.count == 2 and "a (train), there a (test)" in finding.message


@pytest.mark.parametrize("harm", ["recording", "labels", "gone"])
def test_what_is_not_as_ingested_is_said_and_the_rest_looked_at(harm: str, tmp_path: Path) -> None:
    found(tmp_path, Scene("a"), Scene("b", seed=1))
    folder = tmp_path / "data" / "s" / "a"
    if harm == "recording":
        data = bytearray((folder / "a.mkv").read_bytes())
        data[len(data) // 2] ^= 255
        (folder / "a.mkv").write_bytes(data)
    elif harm == "labels":
        (folder / "annotations.json").write_text((folder / "annotations.json").read_text().replace("20.0", "21.0"))
    else:
        (folder / "a.mkv").unlink()
    (report,) = examine(tmp_path / "data", ["s"], ShardConfig())
    (finding,) = [f for f in report.findings if f.kind == "unreadable"]
    assert finding.sequence == "a" and finding.stops
    assert len(report.surveys[1].pictures) == 4


def test_labels_of_many_stills_are_judged_together(tmp_path: Path) -> None:
    """None of them has targets enough by itself."""
    each = Scene()
    for t, [(x, y, w, h)] in [*each.rows.items()][:24]:
        write_image(tmp_path / "source" / f"{t}.png", each.frames_THW[t])
        (tmp_path / "source" / f"{t}.csv").write_text(f"frame,x,y,w,h\n0,{x - 1},{y},{w},{h}\n")
    (finding,) = [f for f in found(tmp_path) if f.kind == "shifted-labels"]
    assert finding.sequence is None and "1 px right of the label" in finding.message


def test_scr_is_that_of_the_definition() -> None:
    rng = np.random.default_rng(3)
    frame_HW = rng.integers(2900, 3100, (90, 110), dtype=np.uint16)
    mask_HW = np.zeros(frame_HW.shape, np.uint8)
    places = [(4, 3), (50, 40), (58, 47), (86, 105)]  # at the border, and two in each other's ring
    spots = []
    for y, x in places:
        spot_HW = np.zeros_like(mask_HW)
        spot_HW[y : y + 4, x : x + 3] = 1
        spot_HW[y, x] = 0
        frame_HW[spot_HW > 0] += 300
        mask_HW |= spot_HW
        spots.append(spot_HW)
    wanted = [signal_to_clutter(frame_HW, spot_HW, mask_HW) for spot_HW in spots]
    meter = ContrastMeter(*frame_HW.shape)
    masked = targets_in(FrameTargets(0, True, mask=rle.encode(mask_HW)), *frame_HW.shape)
    order = [(t.top, t.left) for t in masked]
    for _ in range(2):  # nothing is left of the frame before
        values = meter.measure(frame_HW, masked, np.zeros((0, 4)), Offsets())
        assert dict(zip(order, values, strict=True)) == pytest.approx(dict(zip(places, wanted, strict=True)))
    # A box holds the pixels whose centres lie in it; an ignore box is no background.
    boxed = targets_in(FrameTargets(0, True, [(39.6, 49.5, 3.0, 4.0)]), *frame_HW.shape)
    assert [(t.left, t.right, t.top, t.bottom) for t in boxed] == [(40, 43, 49, 53)] or boxed[0].left == 40
    bright = frame_HW.copy()
    bright[60:70, 20:30] = 60000
    target = targets_in(FrameTargets(0, True, [(22, 48, 4, 4)]), *frame_HW.shape)
    (without,) = meter.measure(frame_HW, target, np.array([[20.0, 60, 10, 10]]), Offsets())
    (covered,) = meter.measure(bright, target, np.array([[20.0, 60, 10, 10]]), Offsets())
    (bare,) = meter.measure(bright, target, np.zeros((0, 4)), Offsets())
    assert covered == pytest.approx(without) and bare != pytest.approx(without, rel=0.05)


@pytest.mark.parametrize("offset", [(1, 0), (0, -1), (-2, 2), (3, 1)])
def test_an_offset_of_labels_is_named(offset: tuple[int, int]) -> None:
    each = Scene()
    meter, offsets = ContrastMeter(HEIGHT, WIDTH), Offsets()
    for t, [(x, y, w, h)] in each.rows.items():
        label = FrameTargets(t, True, [(x - offset[0], y - offset[1], w, h)])
        meter.measure(each.frames_THW[t], targets_in(label, HEIGHT, WIDTH), label.ignore, offsets)
    found = offsets.found()
    assert found is not None and found[:2] == offset


def test_offsets_of_loose_boxes_and_of_few_are_not_claimed() -> None:
    each = Scene()
    meter, loose, few = ContrastMeter(HEIGHT, WIDTH), Offsets(), Offsets()
    for n, (t, [(x, y, w, h)]) in enumerate(each.rows.items()):
        label = FrameTargets(t, True, [(x - 3, y - 3, w + 8, h + 7)])
        meter.measure(each.frames_THW[t], targets_in(label, HEIGHT, WIDTH), label.ignore, loose)
        if n < contrast.LEAST_TARGETS - 1:
            label = FrameTargets(t, True, [(x - 2, y, w, h)])
            meter.measure(each.frames_THW[t], targets_in(label, HEIGHT, WIDTH), label.ignore, few)
    assert loose.count >= contrast.LEAST_TARGETS and loose.found() is None
    assert few.count and few.found() is None


def test_the_kinds_are_whole() -> None:
    assert {*WAIVABLE} == {*KINDS} - {*NOT_WAIVABLE}
    assert all(kind.severity in SEVERITIES for kind in KINDS.values())
    page = (Path(__file__).resolve().parents[2] / "docs" / "DOCTOR.md").read_text()
    rows = {line.split("|")[1].strip(" `"): line for line in page.splitlines() if line.startswith("| `")}
    assert {*rows} == {*KINDS}
    for name, kind in KINDS.items():
        cells = [cell.strip() for cell in rows[name].strip("|\n ").split("|")]
        assert cells[1] == kind.severity and cells[2] == kind.meaning, name


def test_waivers_cover_what_they_name() -> None:
    findings = [Finding("frozen-conflict", "s", "a", 3, "m"), Finding("flat-targets", "s", "b", 3, "m")]

    def left(*texts: str) -> list[str]:
        return [f.kind for f in waive(findings, map(Waiver.parse, texts)) if not f.waived]

    assert left() == ["frozen-conflict", "flat-targets"]
    assert left("frozen-conflict") == left("s:frozen-conflict") == left("s/a:frozen-conflict") == ["flat-targets"]
    assert left("t:frozen-conflict", "s/b:frozen-conflict", "frozen") == ["frozen-conflict", "flat-targets"]


def test_examination_by_several_processes_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from irstd.data.doctor import examination

    each = Scene("a")
    _duplicate(each)
    found(tmp_path, each, Scene("b", seed=1))
    seen: list[tuple[int, int]] = []
    one = examine(tmp_path / "data", ["s"], ShardConfig(), 1, lambda done, total, at: seen.append((done, total)))
    monkeypatch.setattr(examination, "FEW_FRAMES", 0)
    two = examine(tmp_path / "data", ["s"], ShardConfig(), 2)
    assert one[0].findings == two[0].findings
    assert [p.data for s in one[0].surveys for p in s.pictures] == [p.data for s in two[0].surveys for p in s.pictures]
    assert seen == [(n + 1, 2 * FRAMES) for n in range(2 * FRAMES)]


def test_what_a_sequence_costs_the_page_is_bounded(tmp_path: Path) -> None:
    """Noise compresses badly: pictures become smaller until they fit."""
    from irstd.data.doctor.survey import survey

    rng = np.random.default_rng(0)
    (tmp_path / "source").mkdir()
    write_video(tmp_path / "source" / "a.mkv", rng.integers(0, 255, (6, 300, 400), dtype=np.uint8))
    ingest(tmp_path / "source", "s", tmp_path / "data", tmp_path / "staging")
    (item,) = sequence.sequences(tmp_path / "data", "s")
    for allowance in (200_000, 60_000, 12_000):
        pictures = survey(item, 4, allowance).pictures
        assert len(pictures) == 4 and sum(len(p.data) for p in pictures) <= allowance
    assert json.dumps([p.frame for p in pictures]) == "[0, 2, 3, 5]"


@pytest.mark.parametrize(("moved", "conflict"), [((2, 2), False), ((3, 2), True), ((0, 4), True)])
def test_small_targets_contradict_beyond_a_hit(moved: tuple[int, int], conflict: bool, tmp_path: Path) -> None:
    each = Scene()
    each.frames_THW[7] = each.frames_THW[6]
    x, y = each.rows[6][0][:2]
    each.rows[6] = [(x + 2, y + 2, 1, 1)]
    each.rows[7] = [(x + 2 + moved[0], y + 2 + moved[1], 1, 1)]
    assert ("frozen-conflict" in kinds(found(tmp_path, each))) is conflict


def test_masks_contradict_too(tmp_path: Path) -> None:
    found(tmp_path, Scene())
    (item,) = sequence.sequences(tmp_path / "data", "s")
    mask_HW = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask_HW[5:8, 5:8] = 1
    frames = [FrameTargets(t, True, mask=rle.encode(mask_HW * (t != 7))) for t in range(FRAMES)]
    marks = {"frozen": [[7, 7], [20, 20]]}
    (finding,) = repeats.certain(item, Annotations(frames, masks=True), marks)
    assert finding.kind == "frozen-conflict" and finding.frame == 7 and finding.count == 1


def test_a_repeat_with_a_region_of_which_nothing_is_claimed_contradicts_nothing(tmp_path: Path) -> None:
    found(tmp_path, Scene())
    item = sequence.load(tmp_path / "data" / "s" / "a")
    frames = [FrameTargets(t, True, [] if t == 7 else [(9, 9, 4, 4)]) for t in range(FRAMES)]
    assert repeats.certain(item, Annotations(frames, masks=False), {"frozen": [[7, 7]]})
    frames[7] = FrameTargets(7, True, ignore=[(8, 8, 6, 6)])
    assert not repeats.certain(item, Annotations(frames, masks=False), {"frozen": [[7, 7]]})


def test_a_slope_of_the_background_is_no_offset() -> None:
    """Contrast that still rises at the farthest offset is that of something else."""
    rng = np.random.default_rng(0)
    meter, offsets = ContrastMeter(HEIGHT, WIDTH), Offsets()
    for t in range(30):
        frame_HW = rng.normal(3000, 20, (HEIGHT, WIDTH))
        frame_HW[:, 48:50] += 400
        label = FrameTargets(t, True, [(41, 10 + t, 5, 5)])
        frame = frame_HW.astype(np.uint16)
        meter.measure(frame, targets_in(label, HEIGHT, WIDTH), label.ignore, offsets)
    assert offsets.count >= contrast.LEAST_TARGETS and offsets.found() is None


def test_the_frames_of_a_pair_are_on_the_page_though_no_sheet_has_them(tmp_path: Path) -> None:
    views = [scene(seed) for seed in range(3)]
    for name, other in (("a", 0), ("b", 1)):
        frames = [views[other]] * 9
        frames[4] = views[2] + (name == "b")
        write_video(tmp_path / "source" / f"{name}.mkv", np.stack(frames))
        (tmp_path / "source" / f"{name}.csv").write_text("frame,x,y,w,h\n0,10,12,3,3\n")
    ingest(tmp_path / "source", "s", tmp_path / "data", tmp_path / "staging")
    placed(tmp_path / "data", "s", {"a": "train", "b": "test"})
    (report,) = examine(tmp_path / "data", ["s"], ShardConfig())
    (pair,) = [f for f in report.findings if f.kind == "across-splits"]
    assert (pair.frame, pair.also) == (4, ("b", 4))
    assert all(each.picture(4) is not None and each.picture(8) is None for each in report.surveys)

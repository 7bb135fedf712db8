"""The page of `irstd doctor data`: sequences, findings, histograms, pictures."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

import numpy as np

from irstd import __version__
from irstd.data.doctor.examination import SetReport
from irstd.data.doctor.findings import KINDS, SEVERITIES, Finding, many
from irstd.data.doctor.pictures import Picture
from irstd.data.doctor.survey import Survey
from irstd.reports.page import Histogram, data_uri, figure, number, render

COLUMNS = (
    ("set", False),
    ("sequence", False),
    ("frames", True),
    ("size", True),
    ("bits", True),
    ("range", True),
    ("targets", True),
    ("median SCR", True),
    ("labelled", True),
    ("empty", True),
    ("unlabelled", True),
    ("with ignore", True),
    ("split", False),
    ("findings", False),
    ("group", False),
    ("licence", False),
)
SIZES = [2.0 ** (i / 2) for i in range(25)]  # 1 to 4096 px
SCRS = [0.5 * i for i in range(41)]
OPEN = 12  # findings of a kind that are shown at once
ROOM = 2.0  # px between a target and the frame drawn around it: a frame over a target of two pixels would hide it
DOT = 3.0  # px, radius around a point


def data_page(reports: list[SetReport], data_version: str | None = None) -> str:
    """The page as text. `data_version`: of `data.dvc`, where there is one."""
    ids = {
        (report.name, each.sequence.name): f"s{a}-{b}"
        for a, report in enumerate(reports)
        for b, each in enumerate(report.surveys)
    }
    pictured = {(*key, p.frame) for report in reports for key, each in _keyed(report) for p in each.pictures}
    findings = [finding for report in reports for finding in report.findings]
    surveys = [each for report in reports for each in report.surveys]
    return render(
        "data.html",
        version=__version__,
        data_version=data_version,
        recordings=many(len(surveys), "recording"),
        tiles=_tiles(reports, surveys, findings),
        kinds=_kinds(findings, ids, pictured),
        sets=[_set(report, f"set{a}", ids) for a, report in enumerate(reports)],
        columns=COLUMNS,
        rows=[_row(report, each, ids) for report in reports for each in report.surveys],
    )


def _keyed(report: SetReport) -> list[tuple[tuple[str, str], Survey]]:
    return [((report.name, each.sequence.name), each) for each in report.surveys]


def _tiles(reports: list[SetReport], surveys: list[Survey], findings: list[Finding]) -> list[tuple[str, int, str]]:
    found = [
        ("sets", len(reports), ""),
        ("sequences", len(surveys), ""),
        ("frames", sum(each.sequence.frames for each in surveys), ""),
        ("labelled frames", sum(each.sequence.labelled_frames for each in surveys), ""),
        ("targets", sum(len(each.scr) for each in surveys), ""),
    ]
    for severity in SEVERITIES:
        found.append((severity, sum(f.severity == severity and not f.waived for f in findings), severity))
    return found


def _kinds(findings: list[Finding], ids: dict, pictured: set) -> list[dict[str, Any]]:
    """Findings by severity and kind, those that are waived last."""

    def order(finding: Finding) -> tuple:
        return finding.waived, SEVERITIES.index(finding.severity), [*KINDS].index(finding.kind)

    found = []
    for (waived, severity, _), group in groupby(sorted(findings, key=order), order):
        all_ = [_finding(each, ids, pictured) for each in group]
        kind = all_[0]["kind"]
        found.append(
            {
                "name": kind,
                "severity": SEVERITIES[severity],
                "waived": waived,
                "meaning": KINDS[kind].meaning,
                "remedy": KINDS[kind].remedy,
                "open": severity < 2 and not waived and len(all_) <= OPEN,
                "findings": all_,
            }
        )
    return found


def _finding(finding: Finding, ids: dict, pictured: set) -> dict[str, Any]:
    def target(name: str | None, frame: int | None) -> str | None:
        if name is None or (finding.set, name) not in ids:
            return None
        anchor = ids[finding.set, name]
        return f"{anchor}-{frame}" if (finding.set, name, frame) in pictured else anchor

    return {
        "kind": finding.kind,
        "severity": finding.severity,
        "waived": finding.waived,
        "place": finding.place,
        "message": finding.message,
        "href": target(finding.sequence, finding.frame),
        "also_href": target(*finding.also) if finding.also else None,
    }


def _set(report: SetReport, id: str, ids: dict) -> dict[str, Any]:
    return {
        "id": id,
        "name": report.name,
        "charts": _charts(report.surveys),
        "stills": all(each.sequence.frames == 1 for each in report.surveys),
        "has_ignore": any(each.ignored for each in report.surveys),
        "sequences": [
            {
                "id": ids[key],
                "name": each.sequence.name,
                "line": _line(report, each),
                "pictures": [_picture(p, f"{ids[key]}-{p.frame}", each) for p in each.pictures],
                "cuts": [_picture(p, None, each) for p in each.cuts],
            }
            for key, each in _keyed(report)
        ],
    }


def _line(report: SetReport, each: Survey) -> str:
    item = each.sequence
    parts = [many(item.frames, "frame")] if item.frames > 1 else []
    parts += [f"{item.width}×{item.height}", f"{item.bit_depth} bits", report.splits[item.name]]
    kinds = dict.fromkeys(f.kind for f in report.findings if f.sequence == item.name and f.kind != "unlabelled")
    return ", ".join(parts) + (": " + ", ".join(kinds) if kinds else "")


def _picture(picture: Picture, id: str | None, each: Survey) -> dict[str, Any]:
    frame = f"frame {picture.frame}" if each.sequence.frames > 1 else ""
    caption = ": ".join(filter(None, (frame, picture.caption)))
    return {
        "id": id,
        "uri": data_uri(picture.data, picture.kind),
        "width": picture.width,
        "height": picture.height,
        "label": f"{each.sequence.name} frame {picture.frame}",
        "caption": caption,
        # Cut-outs are large enough to show the label as it is.
        "boxes": _rounded(picture.drawn.boxes if picture.caption else _around(picture)),
        "ignore": _rounded(picture.drawn.ignore),
        "points": [(round(x, 1), round(y, 1), DOT) for x, y in picture.drawn.points],
    }


def _around(picture: Picture) -> list[list[float]]:
    """The boxes with `ROOM` around them; sides that lie in the picture stay there, to be seen (a box over the whole frame)."""
    found = []
    for x, y, w, h in picture.drawn.boxes:
        left, right = _sides(x, x + w, picture.width)
        top, bottom = _sides(y, y + h, picture.height)
        found.append([left, top, right - left, bottom - top])
    return found


def _sides(low: float, high: float, size: int) -> tuple[float, float]:
    return (
        max(low - ROOM, 1.0) if low >= 0 else low - ROOM,
        min(high + ROOM, size - 1.0) if high <= size else high + ROOM,
    )


def _rounded(boxes: Iterable[list[float]]) -> list[tuple[float, ...]]:
    return [tuple(round(value, 1) for value in box) for box in boxes]


def _charts(surveys: list[Survey]) -> list[Histogram]:
    sizes = np.concatenate([each.sizes for each in surveys])
    scr = np.concatenate([each.scr for each in surveys])
    spans = np.array([_span(each) for each in surveys])
    sized, measured = sizes[~np.isnan(sizes)], scr[~np.isnan(scr)]
    size_ticks = {0: "1", 6: "8", 12: "64", 18: "512", 24: "4096 px"}
    scr_ticks = {0: "0", 10: "5", 20: "10", 30: "15", 40: "20"}
    bit_ticks = {0: "1", 4: "2⁴", 8: "2⁸", 12: "2¹²", 16: "2¹⁶ counts"}
    return [
        Histogram.of("Target size", sized, SIZES, size_ticks, _middle(sized, "target", " px")),
        Histogram.of("SCR", measured, SCRS, scr_ticks, _middle(measured, "target")),
        Histogram.of("Dynamic range", np.log2(spans), [*range(17)], bit_ticks, _middle(spans, "sequence", " counts")),
    ]


def _middle(values: np.ndarray, noun: str, unit: str = "") -> str:
    return (
        f"{many(len(values), noun)}, median {figure(float(np.median(values)))}{unit}" if len(values) else f"no {noun}s"
    )


def _span(each: Survey) -> float:
    return max(1.0, each.sequence.intensity["p995"] - each.sequence.intensity["p005"])


def _row(report: SetReport, each: Survey, ids: dict) -> dict[str, Any]:
    item = each.sequence
    scr = each.scr[np.isfinite(each.scr)]
    median = float(np.median(scr)) if len(scr) else None
    own = [f for f in report.findings if f.sequence == item.name or (f.also and f.also[0] == item.name)]
    kinds = {f.kind: "waived" if f.waived else f.severity for f in own}
    return {
        "set": item.set,
        "name": item.name,
        "id": ids[report.name, item.name],
        "frames": item.frames,
        "pixels": item.width * item.height,
        "size": f"{item.width}×{item.height}",
        "bits": item.bit_depth,
        "span": item.intensity["max"] - item.intensity["min"],
        "range": f"{number(item.intensity['min'])} to {number(item.intensity['max'])}",
        "targets": len(each.scr),
        "scr": "–" if median is None else f"{median:.2f}",
        "scr_value": -1 if median is None else round(median, 3),
        "labelled": item.labelled_frames,
        "empty": each.empty,
        "unlabelled": each.unlabelled,
        "ignored": each.ignored,
        "split": report.splits[item.name],
        "group": "own" if item.group == item.name else item.group,
        "licence": item.licence or "–",
        "findings": [{"kind": kind, "css": css} for kind, css in kinds.items()],
    }

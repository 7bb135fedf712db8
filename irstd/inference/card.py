"""The model card: what a version is, what it was measured on, what it is for and what nobody has tried."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from irstd.inference import choice, seeds

FILE = "MODEL_CARD.md"
RULES = {
    "full_scale": "counts / 255 (8 bits)",
    "frame": "the key frame's own percentiles, for its whole clip",
    "sequence": "percentiles of the recording",
    "dataset": "percentiles of the training data, kept in the package; for recordings of the same sensor only",
    "auto": "8 bits: counts / 255; deeper: the key frame's own percentiles",
}
NUMBERS = ("iou", "niou", "pd", "fa", "ap50", "ap", "precision", "recall", "f1", "false_alarms_per_frame")


def render(
    content: Mapping[str, Any],
    title: str | None = None,
    evaluations: Iterable[Mapping[str, Any]] = (),
    promotions: Iterable[str] = (),
) -> str:
    """Markdown for the package `content`; `evaluations` as `irstd evaluate` writes them, `promotions` a line each."""
    config, lineage = content["config"], content["lineage"]
    name = config["model"]["name"]
    parts = [f"# {title or name}", "", _what(content), "", "## Data", "", *_data(content), "", "## Numbers", ""]
    parts += _numbers(content, list(evaluations))
    if lines := [f"- {line}" for line in promotions]:
        parts += ["", "## Promotions", "", *lines]
    parts += ["", "## Input, processing, output", "", *_processing(content), "", "## Use and limits", ""]
    parts += [*_limits(content), "", "## Lineage", "", *_lineage(lineage)]
    return "\n".join(parts) + "\n"


def _what(content: Mapping[str, Any]) -> str:
    model, seen = content["config"]["model"], content.get("input") or {}
    length = seen.get("frames") or model.get("frames", 1)
    clips = "single frames" if length == 1 else f"clips of T={length} frames, the last one being the key frame"
    return (
        f"`{model['name']}` for small targets in infrared recordings, on {clips}. Sensor counts go in, boxes and scores of "
        "each frame come out."
    )


def _data(content: Mapping[str, Any]) -> list[str]:
    if "source" in content["lineage"]:
        return [
            f"Trained by others; imported from `{content['lineage']['source']['file']}`. Data and licence: not stated."
        ]
    if not content.get("data"):
        return ["Not recorded."]
    rows = ["| set | licence | train | val | gate | test | digest |", "| --- | --- | --- | --- | --- | --- | --- |"]
    for entry in content["data"]:
        # In the order of the columns: a package that was read has its keys sorted.
        counts = [entry["splits"][split] for split in ("train", "val", "gate", "test")]
        cells = [f"{n['groups']} groups, {n['labelled']} frames" for n in counts]
        rows.append(
            f"| {entry['set']} | {'; '.join(entry['licences'])} | {' | '.join(cells)} | `{entry['digest'][:12]}` |"
        )
    by = {entry["split_by"] for entry in content["data"]}
    said = "Splits are by group of recordings: none is in two splits."
    if "block" in by:
        said = "Splits are stretches of the same recordings: numbers say little about other recordings."
    return [*rows, "", f"{said} Frames: labelled key frames."]


def _numbers(content: Mapping[str, Any], evaluations: list[Mapping[str, Any]]) -> list[str]:
    metrics = content["metrics"]
    chosen = metrics.get("chosen", "not recorded")
    rows = [
        "| split | protocol | grid | threshold | numbers, 95 % intervals in brackets | groups | digests |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    if metrics.get("values"):
        rows.append(_row(metrics, metrics["values"], metrics.get("intervals")))
    for found in evaluations:
        rows += [_row(found | row, row, row.get("intervals")) for row in found["protocols"]]
    out = [f"Checkpoint: {chosen}. Threshold of the package: {content['threshold']:g}."]
    if content.get("threshold_chosen"):
        out[0] += f" How it was chosen: {choice.phrase(content['threshold_chosen'])}."
    out += ["", *rows] if len(rows) > 2 else ["", "No numbers were measured."]
    if several := metrics.get("seeds"):
        out += ["", f"Seeds: {_seeds(several)}"]
    elif "seed" in content["lineage"]:
        out += ["", f"One seed ({content['lineage']['seed']}): how much seeds differ was not measured."]
    if not any(found.get("split") == "test" for found in evaluations):
        out += ["", "Not measured on test here; where it is, test decides nothing."]
    return out


def _row(about: Mapping[str, Any], values: Mapping[str, Any], intervals: Mapping[str, Any] | None) -> str:
    digests = ", ".join(f"{k} `{v[:12]}`" for k, v in sorted(about.get("digests", {}).items()))
    numbers = ", ".join(
        f"{name} {values[name]:.4g}"
        + (f" [{pair[0]:.4g}, {pair[1]:.4g}]" if (pair := (intervals or {}).get(name)) else "")
        for name in NUMBERS
        if values.get(name) is not None
    )
    groups = about.get("groups") or ""
    threshold = about.get("threshold")
    return (
        f"| {about.get('split', '')} | {about.get('protocol', '')} | {about.get('grid') or 'native'} | "
        f"{'' if threshold is None else format(threshold, 'g')} | {numbers or 'none'} | {groups} | {digests} |"
    )


def _seeds(about: Mapping[str, Any]) -> str:
    return (
        f"{about['n']} ({', '.join(map(str, about['seeds']))}); registered is {about['registered']}. Mean and deviation (n - 1) "
        f"on val: best checkpoint {seeds.phrase(about)}; last epoch {seeds.phrase(about['last'])}."
    )


def _processing(content: Mapping[str, Any]) -> list[str]:
    config, rule = content["config"], content["intensity"]["rule"]
    dtype = "uint16" if content["bit_depth"] > 8 else "uint8"
    model = config["model"]
    out = [
        f"- Input: sensor counts, `{dtype}` [T, H, W], one grey channel, frames of one recording in order.",
        f"- Intensity rule `{rule}`: {RULES.get(rule, rule)}.",
        f"- Size: `{config['data']['resize']}`"
        + ("" if config["data"]["resize"] == "native" else f", {config['data']['interpolation']}")
        + "; boxes come back in pixels of the original frame.",
    ]
    if "nms" in model:
        out.append(f"- Detections of overlap above {model['nms']:g} (IoU) are one.")
    else:
        out.append(
            "- Targets are the 8-connected components of pixels above the threshold, scored by their highest one."
        )
    return [*out, f"- Threshold: a score must be greater than {content['threshold']:g}."]


def _limits(content: Mapping[str, Any]) -> list[str]:
    seen = content.get("input")
    out = [
        "- For finding small targets in recordings like those above. No decision about people or weapons rests on it alone."
    ]
    if seen:
        sizes = ", ".join(f"{h} x {w}" for h, w in seen["sizes"][:8]) + (", ..." if len(seen["sizes"]) > 8 else "")
        depths = ", ".join(map(str, seen["bit_depths"]))
        out.append(f"- Seen: {depths} bits; frames of {sizes} (height x width); T={seen['frames']}.")
        out.append(
            "- Not tested on: other sensors, bit depths and sizes than these; colour; lossy compression, unless "
            "the sets above hold such."
        )
    else:
        out.append("- What it saw in training is not recorded.")
    return out


def _lineage(lineage: Mapping[str, Any]) -> list[str]:
    names = {
        "run": "run", "identity": "identity", "mlflow_run": "MLflow run", "data_md5": "data.dvc md5",
        "git_commit": "git commit", "code": "code", "weights_sha256": "weights sha256", "seed": "seed",
    }  # fmt: skip
    rows = [f"- {label}: `{lineage[key]}`" for key, label in names.items() if lineage.get(key) is not None]
    if lineage.get("git_dirty"):
        rows.append("- the working tree had changes that were not committed")
    if lineage.get("packages"):
        rows.append("- packages: " + ", ".join(f"{k} {v}" for k, v in sorted(lineage["packages"].items())))
    return rows


def shortened(text: str, most: int) -> str:
    """At most `most` characters: whole lines, and a last one that says where the rest is."""
    if len(text) <= most:
        return text
    note = f"\n\n(Shortened; the rest is in {FILE} of the package.)\n"
    return re.sub(r"\n[^\n]*\Z", "", text[: most - len(note)]) + note

"""The numbers of an evaluation as people read them."""

from __future__ import annotations

from typing import Any

from irstd.commands import siblings
from irstd.commands.show import boxes_scored, number, say, scored, table

# Pixels of false alarms up to which the baselines are put beside the model: 1 in 3000 of ten thousand 512 x 640 frames. To
# be compared, they need about as many pixels in memory.
COMPARABLE = 2**20


def comparable(row: dict[str, Any]) -> bool:
    """Whether so few pixels are marked falsely that a baseline at that rate says anything."""
    return row["fa"] is not None and row["fa"] * row["pixels"] <= COMPARABLE


def show(found: dict[str, Any]) -> None:
    """Print a report's numbers, with all that a number needs to be compared."""
    digests = ", ".join(f"{name} {digest[:12]}" for name, digest in found["digests"].items())
    first = found["protocols"][0]
    say(
        f"split {found['split']} of {digests}: {found['frames']} frames, {first['targets']} targets, "
        f"{found['groups']} groups; checkpoint {found['chosen']}, threshold {found['threshold']:g}"
    )
    if uses := found.get("test_uses"):
        say(
            "  measured on test once"
            if uses == 1
            else f"  measured on test {uses} times: what is chosen by that is chosen on test"
        )
    for row in found["protocols"]:
        numbers = boxes_scored(row) if found["task"] == "detection" else scored(row)
        say(f"  {row['protocol']:<10} grid {row['grid'] or 'native':<6}  {numbers}")
    if why := first.get("withheld"):
        say(f"  {why}")
    say(
        f"  intervals insufficient: {why}"
        if (why := first.get("insufficient"))
        else "  in brackets: 95 % over resampled groups"
    )
    if several := found.get("seeds"):
        siblings.show(several, found["split"])
    for name, title in (("scr", "SCR"), ("size", "size")):
        columns = ("bin", "targets", "hits", "pd", "recall", "ap50")
        grid = found["bins"].get("grid") or "native"
        say(f"by {title} ({found['bins']['protocol']}, grid {grid}, threshold {found['threshold']:g}):")
        say(table([{k: row[k] for k in columns if k in row} for row in found["bins"][name]]))
    for line in found.get("expected", ()):
        say(line)
    if point := found.get("wanted_fa"):
        say(
            f"threshold {point['threshold']:.6g} is the lowest above which Fa never exceeds {point['wanted']:g} on "
            f"{found['split']} (strict, grid native): Fa {number(point['fa'], None, 1e6, 2)}e-6, Pd {number(point['pd'])}"
        )
    if found["task"] == "segmentation" and not comparable(first):
        say(f"no classical baselines beside it: the model marks more than {COMPARABLE} pixels falsely")
    elif not found["baselines"]:
        return
    elif found["task"] == "detection":
        say("beside classical baselines, each at the model's false alarms a frame or below:")
        say(
            table(
                [
                    row
                    for place, each in enumerate(found["protocols"])
                    for row in _beside(found, place, each["protocol"])
                ]
            )
        )
    else:
        rows = [{"method": "model", "Pd": first["pd"], "Fa e-6": first["fa"] * 1e6}]
        rows += [{"method": b["method"], "Pd": b["pd"], "Fa e-6": b["fa"] * 1e6} for b in found["baselines"]]
        say("beside classical baselines, each at the model's Fa or below (strict, native grid):")
        say(table(rows))


def _beside(found: dict[str, Any], place: int, protocol: str) -> list[dict[str, Any]]:
    """The rows of the model and of each baseline under one protocol of boxes."""
    methods = [("model", found["protocols"]), *((b["method"], b["protocols"]) for b in found["baselines"])]
    names = {"ap50": "AP", "ap": "AP", "precision": "P", "recall": "R", "f1": "F1"}
    rows = []
    for method, numbers in methods:
        row = {label: numbers[place][name] for name, label in names.items() if name in numbers[place]}
        alarms = {"false alarms a frame": numbers[place].get("false_alarms_per_frame")}
        rows.append({"protocol": protocol, "method": method} | row | alarms)
    return rows

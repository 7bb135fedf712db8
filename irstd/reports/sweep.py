"""The page of a sweep: its leaderboard, what each path does, curves, the winner, and what the search cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from irstd import __version__
from irstd.data.doctor.findings import many
from irstd.reports import charts
from irstd.reports.page import render
from irstd.reports.parallel import parallel

ORDER = {"finished": 0, "running": 1, "asked": 1, "pruned": 2, "stopped": 2, "failed": 3}


def sweep_page(
    record: dict[str, Any],
    importances: Sequence[dict[str, Any]] = (),
    compared: dict[str, Any] | None = None,
    verdict: str | None = None,
    rungs: Sequence[float] = (),
) -> str:
    """The page as text.

    Args:
        record: `sweep.json` (docs/FORMATS.md).
        importances: {"path", "share", "low", "high", "sure", "trials"}, the greatest first.
        compared: {"epoch", "trials"}: where the values come from that the importances are of; None: too few trials.
        verdict: what the confirmation says, in a sentence.
        rungs: epochs at which trials were judged.
    """
    trials, best = record["trials"], record["best"]
    knobs = [knob | {"axis": charts.Axis(knob)} for knob in record["knobs"]]
    metric = record["objective"]["metric"]
    ranked = sorted(
        trials, key=lambda t: (ORDER[t["state"]], -(t["value"] if t["value"] is not None else -1e9), t["trial"])
    )
    drawn, wide = parallel(record["knobs"], trials, best, metric)
    told = {each["path"] for each in importances}
    return render(
        "sweep.html",
        version=__version__,
        record=record,
        metric=metric,
        measured=_measured(record),
        tiles=_tiles(record),
        cost=cost(record),
        knobs=knobs,
        chosen=_chosen(record),
        confirmation=_confirmation(record),
        verdict=verdict,
        importances=[dict(each, bar=charts.interval(each["low"], each["share"], each["high"])) for each in importances],
        compared=compared,
        untold=[knob["path"] for knob in record["knobs"] if knob["path"] not in told],
        scatters=[(knob["path"], charts.scatter(knob, trials, best)) for knob in record["knobs"]],
        parallel=drawn,
        parallel_width=wide,
        curves=charts.curves(trials, best, _epochs(record), rungs),
        history=charts.history(trials, best),
        rows=[_row(t, best, record["knobs"]) for t in ranked],
        skipped=_skipped(record["skipped"]),
        any_value=any(t["value"] is not None for t in trials),
    )


def _epochs(record: dict[str, Any]) -> float:
    return max((t["epochs"] for t in record["trials"]), default=0)


def cost(record: dict[str, Any]) -> dict[str, Any]:
    """{"hours", "trial_hours", "saved", "stopped"}: of the clock, of all trials, and what the stopped ones would have taken on
    top, each at its own pace. Trials that were taken from earlier runs cost nothing."""
    spent = saved = 0.0
    stopped = 0
    for t in record["trials"]:
        if t["taken"] or not t["train_seconds"]:
            continue
        spent += t["train_seconds"]
        if t["state"] == "pruned" and t["epoch"]:
            saved += t["train_seconds"] / t["epoch"] * max(0.0, t["epochs"] - t["epoch"])
            stopped += 1
    hours = {"hours": record["seconds"], "trial_hours": spent, "saved": saved}
    return {name: value / 3600 for name, value in hours.items()} | {"stopped": stopped}


def _skipped(reasons: dict[str, int]) -> dict[str, int]:
    """Points that were not tried, by reason; repeated ones together."""
    found: dict[str, int] = {}
    for why, count in reasons.items():
        why = "tried before" if why.startswith("repeats trial") else why
        found[why] = found.get(why, 0) + count
    return found


def _hours(hours: float) -> str:
    if hours < 0.03:
        return f"{3600 * hours:.0f} s"
    return f"{60 * hours:.0f} min" if hours < 1.5 else f"{hours:.1f} h"


def _tiles(record: dict[str, Any]) -> list[tuple[str, str, str]]:
    counts, found = record["counts"], cost(record)
    values = {t["trial"]: t["value"] for t in record["trials"]}
    best = values.get(record["best"])
    tiles = [("trials", str(len(record["trials"])), "")]
    for name in ("finished", "pruned", "stopped", "failed", "running"):
        if counts.get(name):
            tiles.append((name, str(counts[name]), "bad" if name == "failed" else ""))
    tiles.append((f"best {record['objective']['metric']} of the search", "–" if best is None else f"{best:.4f}", ""))
    tiles.append(("of the clock", _hours(found["hours"]), ""))
    tiles.append(("in trials", _hours(found["trial_hours"]), ""))
    if found["stopped"]:
        tiles.append(("saved by stopping early", _hours(found["saved"]), ""))
    return tiles


def _measured(record: dict[str, Any]) -> str:
    """Split, protocol, grid and threshold of the objective: a number without them cannot be compared."""
    how = record["objective"]
    parts = [f"split {how['split']}", f"protocol {how['protocol']}", f"grid {how['grid'] or 'native'}"]
    parts.append(f"threshold {how['threshold']:g}" if how["fa"] is None else f"Fa {how['fa']:g}")
    parts.append(", ".join(f"{name} {digest[:12]}" for name, digest in sorted(how["digests"].items())))
    return ", ".join(parts)


def _chosen(record: dict[str, Any]) -> dict[str, Any] | None:
    """The winner, or the best trial so far, as what it changes: {"name", "confirmed", "rows", "run"}; rows None: the default."""
    winner = record["winner"]
    by_name = {f"trial {t['trial']}": t for t in record["trials"]}
    name = winner["name"] if winner else f"trial {record['best']}" if record["best"] else None
    if name is None:
        return None
    found = {"name": name, "confirmed": bool(winner and winner["confirmed"])}
    if name not in by_name:
        return found | {"run": winner["run"], "rows": None}
    trial = by_name[name]
    rows = [
        (knob["path"], charts.words(knob["default"]), charts.words(trial["overrides"][knob["path"]]))
        for knob in record["knobs"]
        if knob["path"] in trial["overrides"]
    ]
    return found | {"run": (winner or trial)["run"], "rows": [(*row, row[1] != row[2]) for row in rows]}


def gained(gain: dict[str, Any] | None) -> str:
    """A gain over the default with its interval, where there is one; "" without a gain."""
    if not gain:
        return ""
    interval = "" if gain["low"] is None else f" [{gain['low']:+.4f}, {gain['high']:+.4f}]"
    return f"{gain['mean']:+.4f}{interval}"


def _confirmation(record: dict[str, Any]) -> dict[str, Any] | None:
    found = record["confirmation"]
    if not found:
        return None
    rows = []
    for each in found["candidates"]:
        values = ["failed" if v is None else f"{v:.4f}" for v in each["values"]]
        rows.append(
            {**each, "gain": gained(each["gain"]) or "–", "values": values, "winner": each["name"] == found["winner"]}
        )
    return {"seeds": found["seeds"], "rows": rows, "n": many(len(found["seeds"]), "fresh seed")}


def _row(t: dict[str, Any], best: int | None, knobs: list[dict[str, Any]]) -> dict[str, Any]:
    note = t["error"] or ("best" if t["trial"] == best else "")
    if t["state"] in ("pruned", "stopped"):
        note = f"stopped by {t['rule']} at epoch {t['epoch']:g} of {t['epochs']:g}"
    if t["taken"]:
        note = f"{note}, trained before".strip(", ")
    cells = [
        (charts.words(t["overrides"][k["path"]]), t["overrides"][k["path"]])
        if k["path"] in t["overrides"]
        else ("", "")
        for k in knobs
    ]
    return {
        "trial": t["trial"],
        "state": t["state"],
        "css": {"failed": "bad", "pruned": "soft", "stopped": "soft"}.get(t["state"], ""),
        "value": "–" if t["value"] is None else f"{t['value']:.4f}",
        "sort": -1 if t["value"] is None else t["value"],
        "epoch": f"{t['epoch']:g}",
        "seconds": t["train_seconds"],
        "cells": cells,
        "run": t["run"],
        "note": note,
    }

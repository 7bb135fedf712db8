"""TPE with ASHA against the full grid and against random search, on small spaces whose every point was really trained.

    python -m benchmarks.sweeps [--out FILE] [--picture FILE] [--seeds N]

Two spaces of a small network on generated recordings: `optimizer` (rate, optimizer, loss, width; 48 points) and, for whatever is
learnt from the first, `schedule` (rate, warm-up, width on fainter targets; 45 points). Each point is trained once for all
epochs by the product's loop; its learning curve is a line of FILE, kept by what decides it, so that the training can be killed
and goes on. Then the product's own `Sweep` (searcher, stopping rule, journal) searches the space against these curves, two
trials side by side on a simulated clock, on which an epoch of any trial takes as long as of any other: trainings are
deterministic, so a search sees what it would have trained.

    regret = (best of the grid - found) / (best of the grid - median of the grid)

Found: the value of the best trial that ran to its end, which is what the product takes. Steps are those of all trials, the
stopped ones included. Goals: regret <= .1 with a third of the grid's steps; no worse than random search at equal steps.
"""

from __future__ import annotations

import argparse
import csv
import heapq
import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import small_network
from benchmarks.painting import build_shards, write_recording
from benchmarks.trials import append_row, read_rows
from irstd.bench.timing import pinned
from irstd.cluster import points, searchers, spaces
from irstd.cluster.journal import Journal
from irstd.cluster.stopping import Stopping
from irstd.cluster.sweep import Sweep
from irstd.config import ShardConfig
from irstd.data.manifest import read_all
from irstd.data.synthetic import SceneSpec, render
from irstd.files import canonical_json, sha256_file, sha256_text
from irstd.training.identity import code_hash
from irstd.training.loop import fit

EPOCHS = 9
METRIC = "val_iou"


def _space(knobs: dict[str, Any]) -> spaces.Space:
    return spaces.Space.model_validate(
        {
            "name": "bench",
            "model": "benchmarks.small_network:Small",
            "fixed": {"data.crop": 32, "train.batch": 4, "train.epochs": EPOCHS},
            "space": {path: {"choice": values} for path, values in knobs.items()},
            "search": "grid",
            "scheduler": {"kind": "asha"},
        }
    )


SPACES = {
    "optimizer": _space(
        {
            "train.lr": [3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1],
            "train.optimizer": ["adamw", "sgd"],
            "train.loss.bce": [1.0, 5.0],
            "model.options.width": [4, 12],
        }
    ),
    "schedule": _space(
        {
            "train.lr": [3e-4, 1e-3, 3e-3, 1e-2, 3e-2],
            "train.warmup": [0, 20, 60],
            "model.options.width": [4, 8, 16],
        }
    ),
}
ARMS: dict[str, dict[str, Any]] = {
    "tpe + asha": {"search": "tpe"},
    "random + asha": {"search": "random"},
    "tpe": {"search": "tpe", "scheduler": spaces.Scheduler()},
    "random": {"search": "random", "scheduler": spaces.Scheduler()},
    "tpe + asha, grace 1": {"search": "tpe", "scheduler": spaces.Scheduler(kind="asha", grace=1)},
}
PARALLEL = 2
SHARE = 1 / 3
SCR = {"optimizer": 15.0, "schedule": 10.0}
SCENE: dict[str, Any] = {"targets": 2, "target_size": (3.0, 4.0), "clutter": 8, "hot_pixels": 2}
KINDS = ("clouds", "sea", "horizon", "ground")


def scenes(work: Path, study: str = "optimizer") -> Path:
    """Shards of generated recordings: 8 to train on, 2 to measure."""
    work = work / study
    given = {}
    for number in range(10):
        kind, name = KINDS[number % 4], f"{KINDS[number % 4]}-{number:02d}"
        spec = SceneSpec(
            48, 48, 10, fps=25.0, seed=900 + number, kind=kind, offset=3000, span=120, scr=SCR[study], **SCENE
        )
        scene = render(spec)
        write_recording(work / "source", name, scene.frames_THW, scene.masks_THW)
        given[name] = "train" if number < 8 else "val"
    return build_shards(work / "source", work, "scenes", ShardConfig(frames=1, chunk=10), given)


def trained(space: spaces.Space, shards: Path, out: Path) -> dict[str, list[dict[str, Any]]]:
    """The learning curve of each point of the grid, by `points.key`; what `out` holds is taken from there."""
    digests = {m.set: m.digest for m in read_all(shards)}
    code = code_hash() + sha256_file(Path(small_network.__file__))
    rows, found = {row["run"]: row for row in read_rows(out)}, {}
    grid = list(points.grid(space))
    for number, point in enumerate(grid, 1):
        config = spaces.config_of(space, Path(), point)
        run = sha256_text(canonical_json([config.identity(), digests, code]))[:12]
        if run not in rows:
            curve: list[dict[str, Any]] = []
            fit(config, shards, lambda metrics, _, curve=curve: curve.append(metrics), log=lambda line: None)
            kept = [{k: row[k] for k in ("epoch", "step", "seconds", METRIC, f"best_{METRIC}")} for row in curve]
            rows[run] = {"run": run, "point": point, "curve": kept}
            append_row(out, rows[run])
            print(
                f"{number}/{len(grid)} {point} {kept[-1][f'best_{METRIC}']:.4f} {kept[-1]['seconds']:.1f} s", flush=True
            )
        found[points.key(point)] = rows[run]["curve"]
    return found


def simulated(
    space: spaces.Space, curves: dict[str, list[dict[str, Any]]], arm: str, seed: int, budget: int
) -> list[tuple[int, float]]:
    """[(epochs trained so far, value of the best trial that ran to its end)] of one search with `budget` epochs."""
    space = space.model_copy(update={"seed": seed} | ARMS[arm])
    clock = [0.0]
    sweep = Sweep(
        searchers.make(space),
        Stopping(space.scheduler, EPOCHS),
        Journal(None),
        points.key,
        METRIC,
        clock=lambda: clock[0],
    )
    used, found, waiting = 0, [(0, 0.0)], []
    while True:
        while len(waiting) < PARALLEL and (trial := sweep.ask()):
            heapq.heappush(waiting, (clock[0] + 1, trial.number, 0))
        if not waiting or used >= budget:
            return found
        clock[0], number, place = heapq.heappop(waiting)
        curve = curves[sweep.trials[number - 1].run]
        used += 1
        stop = sweep.report(number, curve[place])
        if not stop and place + 1 < len(curve):
            heapq.heappush(waiting, (clock[0] + 1, number, place + 1))
        elif not stop:
            sweep.end(number, "finished")
        ranked = sweep.ranked()
        found.append((used, ranked[0].value if ranked else 0.0))


def regrets(
    study: str, curves: dict[str, list[dict[str, Any]]], seeds: int
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Rows {"arm", "seed", "share", "regret"}, share being that of the grid's steps; and the grid's numbers."""
    final = sorted(curve[-1][f"best_{METRIC}"] for curve in curves.values())
    best, middle, total = final[-1], median(final), EPOCHS * len(curves)
    rows = []
    for arm in ARMS:
        for seed in range(seeds):
            for used, value in simulated(SPACES[study], curves, arm, seed, round(total * SHARE)):
                regret = (best - value) / (best - middle)
                rows.append({"space": study, "arm": arm, "seed": seed, "share": used / total, "regret": regret})
    return rows, {"points": len(curves), "best": best, "median": middle, "worst": final[0]}


def at(rows: list[dict[str, Any]], arm: str, share: float) -> list[float]:
    """The regret of each seed at a share of the grid's steps."""
    seeds = sorted({row["seed"] for row in rows})
    mine = [row for row in rows if row["arm"] == arm and row["share"] <= share + 1e-9]
    return [[row["regret"] for row in mine if row["seed"] == seed][-1] for seed in seeds]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows {"space", "arm", "share", "median", "least", "greatest"} over the seeds, at 61 shares of the grid's steps."""
    found = []
    for study in dict.fromkeys(row["space"] for row in rows):
        mine = [row for row in rows if row["space"] == study]
        for arm in dict.fromkeys(row["arm"] for row in mine):
            for share in (SHARE * i / 60 for i in range(61)):
                values = at(mine, arm, share)
                row = {"space": study, "arm": arm, "share": round(share, 4), "median": round(median(values), 4)}
                found.append(row | {"least": round(min(values), 4), "greatest": round(max(values), 4)})
    return found


def picture(found: list[dict[str, Any]], path: Path) -> None:
    """Median regret over the share of the grid's steps: a panel a space, a line an arm."""
    from matplotlib.figure import Figure

    studies = list(dict.fromkeys(row["space"] for row in found))
    figure = Figure(figsize=(5.5 * len(studies), 4), layout="constrained")
    for axes, study in zip(figure.subplots(1, len(studies), squeeze=False)[0], studies, strict=True):
        for arm in ARMS:
            mine = [row for row in found if (row["space"], row["arm"]) == (study, arm)]
            axes.step([row["share"] for row in mine], [row["median"] for row in mine], where="post", label=arm)
        axes.axhline(0.1, color="grey", linewidth=0.8, linestyle=":")
        axes.set(title=study, xlabel="share of the grid's steps", ylabel="regret (median of seeds)", ylim=(-0.02, 1.5))
        axes.legend()
    figure.savefig(path, dpi=80)


def show(rows: list[dict[str, Any]], grid: dict[str, float]) -> None:
    print(json.dumps(grid))
    print(f"{rows[0]['space']}: regret, median [least, greatest] of {len({r['seed'] for r in rows})} seeds")
    shares = (SHARE / 4, SHARE / 2, SHARE)
    print(f"{'search':22}" + "".join(f"{f'{share:.0%} of the steps':>26}" for share in shares))
    for arm in ARMS:
        cells = []
        for share in shares:
            found = at(rows, arm, share)
            cells.append(f"{median(found):.3f} [{min(found):.3f}, {max(found):.3f}]")
        print(f"{arm:22}" + "".join(f"{cell:>26}" for cell in cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("sweeps.jsonl"), help="the learning curves")
    parser.add_argument("--picture", type=Path, help="PNG of regret over steps; a CSV is written beside it")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    rows = []
    for study, space in SPACES.items():
        with tempfile.TemporaryDirectory() as work, pinned():
            curves = trained(space, scenes(Path(work), study), given.out)
        found, grid = regrets(study, curves, given.seeds)
        show(found, grid)
        rows += found
    if given.picture:
        found = summary(rows)
        picture(found, given.picture)
        with given.picture.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)


if __name__ == "__main__":
    main()

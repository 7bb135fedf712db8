"""What GILS and DGR bring to a narrow BP-FPN, and IoU against the Gaussian similarity, over paired seeds.

    python -m benchmarks.ablation [--out FILE] [--arms host,gils,...] [--seeds 0,1,2,3,4] [--steps N]
    python -m benchmarks.ablation --data DIR [--out FILE] [--width 1] [--steps N]
    python -m benchmarks.ablation [--data DIR] --out FILE --table

Without `--data`: generated sequences of moving targets (`irstd.data.synthetic_render`), train and val from other seeds. With it:
a subset of the Halmstad videos in DIR/halmstad, on a GPU where there is one.

- host: SSTNet without GILS and DGR;
- gils direct: the shortcut with a gradient path of its own (`model.gils.detach=false`);
- gils, dgr: each alone, as by default; both: BP-FPN as by default;
- host iou: the host with IoU in assignment and loss, where all others have the Gaussian similarity;
- host no prior: its objectness starts at about .5, where all others start at .01.

Runs of one seed see the same batches in the same order, and start with the same weights wherever they have the same
parameters: only the arm differs, so differences are taken seed by seed. What is measured is the averaged weights after the
last step: nothing is chosen on val. The host has to reach AP50 .5, else no arm of it means anything.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from scipy import stats
from torch import nn

from benchmarks.painting import build_shards, write_recording
from benchmarks.trials import Trial, read_rows, run_all, table
from irstd import config as configuration
from irstd.bench.timing import pinned
from irstd.config import GradientConfig, ShardConfig
from irstd.data.synthetic import SceneSpec, render
from irstd.models import build_model
from irstd.training.evaluation import measure
from irstd.training.loop import Run
from irstd.training.optimizer import AveragedWeights

LEAST = 0.5
"""AP50 on val that the host has to reach in the mean."""
SETTINGS: dict[str, Any] = {
    "model.name": "bp-fpn",
    "model.in_channels": 1,
    "model.prior": 0.01,
    "data.contrast": 0.0,
    "data.brightness": 0.0,
    "train.batch": 8,
    "train.lr": 1e-3,
    "train.warmup": 50,
    "train.ema": 0.99,
    "train.loss.similarity": "gaussian",
}
ARMS: dict[str, dict[str, Any]] = {
    "host": {"model.bp": False},
    "gils direct": {"model.gils.detach": False, "model.dgr.variant": "none"},
    "gils": {"model.dgr.variant": "none"},
    "dgr": {"model.gils.source": "none"},
    "both": {},
    "host iou": {"model.bp": False, "train.loss.similarity": "iou"},
    "host no prior": {"model.bp": False, "model.prior": None},
}
PAIRS = [(arm, "host") for arm in ARMS if arm != "host"] + [("gils", "gils direct"), ("both", "gils"), ("both", "dgr")]
PARTS = {
    "shortcut": ("backbone.gils.",),
    "fine": ("backbone.backbone.stem.", "backbone.backbone.dark2."),
    "coarse": ("backbone.backbone.dark",),
    "pyramid": ("backbone.",),
    "rest": ("",),
}
"""Parts of the network whose gradients are logged; a parameter belongs to the first one that its name begins with."""
STAGES = 10
"""Stretches of a run over which what is logged is averaged."""

# -- scenes -------------------------------------------------------------------------------------------------------------

KINDS = ("clouds", "sea", "horizon", "ground")
SIDE, LENGTH, TRAIN, VAL = 96, 20, 48, 16
STEPS = 1200
SCENE: dict[str, Any] = {"targets": 3, "scr": 5.0, "target_size": (2.5, 4.0), "clutter": 15, "hot_pixels": 5}
CROP = 128  # of Halmstad's 320 x 256 px in training; whole frames are measured
VIDEOS = ("AIRPLANE_027", "AIRPLANE_031", "AIRPLANE_044", "AIRPLANE_045", "AIRPLANE_050", "BIRD_004", "BIRD_006")
VIDEOS += ("BIRD_048", "DRONE_019", "DRONE_021", "DRONE_039", "DRONE_059", "DRONE_067", "DRONE_083", "DRONE_092")
VIDEOS += ("HELICOPTER_015", "HELICOPTER_033")
VIEWS = {
    "train": ("ir_airplane-01x", "ir_airplane-04x", "ir_bird-00x", "ir_drone-05x", "ir_helicopter-01x"),
    "val": ("ir_airplane-05x", "ir_drone-01x", "ir_drone-03x", "ir_helicopter-03x"),
}
"""Of Halmstad: videos whose targets are small, and which of the importer's groups, each a view, is in which split."""


def write_scenes(folder: Path) -> dict[str, str]:
    """Write the generated sequences as someone would bring them; returns {name: split}."""
    given = {}
    for number in range(TRAIN + VAL):
        kind = KINDS[number % len(KINDS)]
        name = f"{kind}-{number:03d}"
        spec = SceneSpec(SIDE, SIDE, LENGTH, fps=25.0, seed=5000 + number, kind=kind, offset=3000, span=120, **SCENE)
        scene = render(spec)
        write_recording(folder, name, scene.frames_THW, scene.masks_THW)
        given[name] = "train" if number < TRAIN else "val"
    return given


def generated(work: Path) -> Path:
    """Shards of the generated sequences."""
    given = write_scenes(work / "source")
    return build_shards(work / "source", work, "scenes", ShardConfig(frames=5, chunk=LENGTH), given)


def halmstad(data: Path, work: Path) -> Path:
    """Shards of the Halmstad subset, the videos as they came."""
    for folder, suffix in (("Video_IR", ".mp4"), ("labels_csv", ".csv")):
        (work / "source" / folder).mkdir(parents=True)
        for video in VIDEOS:
            shutil.copyfile(
                data / "halmstad" / folder / f"IR_{video}{suffix}", work / "source" / folder / f"IR_{video}{suffix}"
            )
    given = {view: split for split, views in VIEWS.items() for view in views}
    return build_shards(
        work / "source", work, "halmstad", ShardConfig(frames=5, gradient=GradientConfig(operator="none")), given
    )


# -- one run ------------------------------------------------------------------------------------------------------------


def train(trial: Trial, seed: int, steps: int) -> dict[str, Any]:
    """Train for about `steps` steps (whole epochs) and measure the averaged weights on val: AP50 and what goes with it.

    `stages`: the mean over each tenth of the run of every part of the loss, of alpha, and of the gradient's norm by part.
    """
    start, worked = time.monotonic(), time.process_time()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options = SETTINGS | dict(trial.settings) | {"train.seed": seed}
    first = Run(configuration.load(overrides=options), trial.shards, device, log=_quiet)
    epochs = max(1, round(steps / first.steps_per_epoch))
    config = configuration.load(overrides=options | {"train.epochs": epochs, "train.val_every": epochs})
    run = Run(config, trial.shards, device, log=_quiet)
    start_alike(run)
    watch = Watch(run)
    val, run.val = run.val, None  # the last weights are measured: nothing is chosen on val
    last = run.go(lambda metrics, checkpoint: None)
    assert run.average is not None and val is not None
    run.model.load_state_dict(run.average.values)
    found = measure(run.model, val, config.evaluate).compute()
    row = {name: found[name] for name in ("ap50", "precision", "recall", "f1", "false_alarms_per_frame")}
    row |= {name: round(value, 5) for name, value in last.items() if name.startswith("loss")}
    return row | {
        "stages": watch.stages(),
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "done_steps": run.step,
        "device": device,
        "minutes": round((time.monotonic() - start) / 60, 2),
        "cpu_minutes": round((time.process_time() - worked) / 60, 2),
    }


def start_alike(run: Run) -> None:
    """Give the run the weights with which the host starts at this seed, wherever it has the same parameters."""
    model = run.config.model.model_dump(exclude={"bp", "gils", "dgr"}) | {"bp": False}
    plain = configuration.load(overrides={f"model.{name}": value for name, value in model.items()})
    torch.manual_seed(run.config.train.seed)
    left = run.model.load_state_dict(build_model(plain).state_dict(), strict=False)
    assert not left.unexpected_keys and all(name.startswith("backbone.gils.") for name in left.missing_keys)
    run.stepper.average = AveragedWeights(run.model, run.config.train.ema)
    torch.manual_seed(run.config.train.seed + 1)


class Watch:
    """What goes on in a run, at every tenth step: gradient norms by part as they are before the step, and alpha."""

    EVERY = 10

    def __init__(self, run: Run) -> None:
        self.run, self.seen = run, []
        self.parts: dict[str, list[nn.Parameter]] = {name: [] for name in PARTS}
        self.alphas = {}
        for name, parameter in run.model.named_parameters():
            if ".alpha." in name:
                self.alphas[name.rpartition(".")[2]] = parameter
            part = next(part for part, begins in PARTS.items() if name.startswith(begins))
            self.parts[part].append(parameter)
        run.optimizer.register_step_pre_hook(self.look)

    def look(self, *_: Any) -> None:
        if self.run.step % self.EVERY:
            return
        row = {"step": self.run.step}
        for part, parameters in self.parts.items():
            given = [p.grad for p in parameters if p.grad is not None]
            if given:
                row[f"gradient {part}"] = float(nn.utils.get_total_norm(given))
        self.seen.append(row | {f"alpha {name}": value.item() for name, value in self.alphas.items()})

    def stages(self) -> dict[str, list[float]]:
        """The mean of each value over each of the `STAGES` stretches of the run."""
        found: dict[str, list[float]] = {}
        for name in self.seen[0].keys() - {"step"}:
            for stage in range(STAGES):
                part = [row[name] for row in self.seen if row["step"] * STAGES // self.run.total == stage]
                if part:
                    found.setdefault(name, []).append(round(mean(part), 6))
        return found


def _quiet(line: str) -> None:
    """The loop's own progress: a benchmark prints one line a run."""


# -- tables -------------------------------------------------------------------------------------------------------------


def differences(rows: Iterable[Mapping[str, Any]], name: str = "ap50") -> list[str]:
    """Markdown: for each of `PAIRS` the mean difference over the seeds that both arms have, and its 95 % interval (t)."""
    values = {(row["arm"], row["seed"]): row[name] for row in rows}
    lines = ["| difference in AP50 | seeds | mean | 95 % interval | seeds ahead | |", "| --- " * 6 + "|"]
    for arm, other in PAIRS:
        seeds = [seed for found, seed in values if found == arm and (other, seed) in values]
        if len(seeds) < 2:
            continue
        found = [values[arm, seed] - values[other, seed] for seed in seeds]
        low, high = interval(found)
        verdict = "gain" if low > 0 else "loss" if high < 0 else "no difference shown"
        ahead = f"{sum(d > 0 for d in found)} of {len(found)}"
        lines.append(
            f"| {arm} - {other} | {len(found)} | {mean(found):+.3f} | [{low:+.3f}, {high:+.3f}] | {ahead} | {verdict} |"
        )
    return lines


def interval(differences: list[float], share: float = 0.95) -> tuple[float, float]:
    """Student's t interval of the mean of paired differences: over seeds, for these scenes."""
    half = stats.t.ppf((1 + share) / 2, len(differences) - 1) * stdev(differences) / len(differences) ** 0.5
    return mean(differences) - half, mean(differences) + half


def report(rows: list[dict[str, Any]]) -> str:
    """Tables of AP50 and what goes with it, of the differences, and of alpha and the gradients; or `no conclusion`."""
    names = {"ap50": "AP50", "precision": "precision", "recall": "recall", "loss": "training loss"}
    parts = [table(rows, names, {})]
    host = [row["ap50"] for row in rows if row["arm"] == "host"]
    if not host or mean(host) < LEAST:
        parts.append(f"No conclusion: the host's AP50 has to reach {LEAST} in the mean.")
    else:
        parts.append("\n".join(differences(rows)))
    lines = [
        "| arm | "
        + " | ".join(["size of alpha, end", *(f"gradient norm, {p}: first, last tenth" for p in PARTS)])
        + " |"
    ]
    lines.append("| --- " * (2 + len(PARTS)) + "|")
    for arm in dict.fromkeys(row["arm"] for row in rows):
        these = [row["stages"] for row in rows if row["arm"] == arm]
        # Its sign is chance: S learns the other one.
        cells = [arm, spread([abs(s["alpha p3"][-1]) for s in these if "alpha p3" in s])]
        for part in PARTS:
            given = [s[f"gradient {part}"] for s in these if f"gradient {part}" in s]
            cells.append(f"{mean(g[0] for g in given):.3g}, {mean(g[-1] for g in given):.3g}" if given else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n\n".join([*parts, "\n".join(lines)])


def spread(values: list[float]) -> str:
    """Mean and deviation."""
    if len(values) < 2:
        return f"{values[0]:.3g}" if values else "-"
    return f"{mean(values):.3g} ± {stdev(values):.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds halmstad/; without it scenes are generated")
    parser.add_argument("--out", type=Path, default=Path("ablation.jsonl"), help="rows; those there are kept")
    parser.add_argument("--arms", default=",".join(ARMS), help="names, separated by commas")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="numbers, separated by commas")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--width", type=float, default=0.125)
    parser.add_argument("--frames", type=int, default=3, help="T")
    parser.add_argument("--write", type=Path, metavar="DIR", help="write the generated sequences there and end")
    parser.add_argument("--table", action="store_true", help="the tables of the rows in --out; nothing is trained")
    options = parser.parse_args()
    if options.write:
        write_scenes(options.write)
        return
    study = "halmstad" if options.data else "generated"
    study += f", width {options.width:g}, T = {options.frames}"
    if not options.table:
        common = {"model.width": options.width, "model.frames": options.frames}
        if options.data:
            common["data.crop"] = CROP
        with tempfile.TemporaryDirectory(prefix="irstd-ablation-") as folder, pinned():
            shards = halmstad(options.data, Path(folder)) if options.data else generated(Path(folder))
            trials = [Trial(study, arm, shards, common | ARMS[arm]) for arm in options.arms.split(",")]
            run_all(trials, [int(seed) for seed in options.seeds.split(",")], options.steps, options.out, train)
    rows = [row for row in read_rows(options.out) if row["study"] == study and row["steps"] == options.steps]
    print(report(sorted(rows, key=lambda row: (list(ARMS).index(row["arm"]), row["seed"]))))


if __name__ == "__main__":
    main()

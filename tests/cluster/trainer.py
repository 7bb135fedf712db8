"""A run on Ray without registry and flows: `python -m tests.cluster.trainer HOME SHARDS [--workers N] [--chaos D] ...`.

Its folder is HOME/runs/<run>, its checkpoints lie in HOME/ray/<run>. With --address it joins the Ray that is there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from irstd import config as configuration
from irstd.cluster import plan as planning
from irstd.cluster.drill import Drill
from irstd.commands.on_cluster import check_plan
from irstd.errors import IrstdError
from irstd.training.preparation import prepare
from irstd.training.progress import describe
from irstd.workspace import SETTINGS, Workspace

TOYS = Path(__file__).resolve().parent.parent / "toy_networks"
TINY = {
    "data.crop": 32,
    "train.batch": 4,
    "train.epochs": 4,
    "train.val_steps": 4,
    "train.checkpoint_every": 1,
    "train.lr": 2e-3,
    "train.warmup": 5,
    "train.ema": 0.5,
    "train.loss.bce": 1,
}


def say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("home", type=Path)
    parser.add_argument("shards", type=Path)
    parser.add_argument("--model", default="toy_teller:Teller")
    parser.add_argument("--workers")
    parser.add_argument("--chaos")
    parser.add_argument("--address")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_intermixed_args()
    sys.path.append(str(TOYS))
    settings = {k: dict(v) for k, v in SETTINGS.items()}
    settings["ray"]["address"] = given.address
    workspace = Workspace(given.home, given.home, settings).enter()
    overrides = TINY | configuration.parse_overrides(given.overrides)
    job = prepare(configuration.load(overrides=overrides, model=given.model), given.shards)
    say(describe(job.config, job.shards))
    from irstd.cluster.session import session
    from irstd.cluster.train import fit

    with session(workspace) as resources:
        plan = planning.make(resources, planning.asked(given.workers))
        check_plan(job, plan)
        say(str(plan))
        target = workspace.runs / job.name / "checkpoint"
        fit(workspace, job.config, job.shards, job.name, plan, target, None, say, drills=Drill.parse(given.chaos))
    say("done")


if __name__ == "__main__":
    try:
        main()
    except IrstdError as error:
        print(f"irstd: {error}", file=sys.stderr)
        sys.exit(error.status)

"""`python -m irstd.training RECIPE [KEY=VALUE ...]`: a run on one machine that has none of ray, prefect, mlflow and dvc.

python -m irstd.training recipes/demo.yaml train.epochs=8 --shards shards --out runs
torchrun --nproc-per-node 4 -m irstd.training recipes/demo.yaml
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from irstd.errors import IrstdError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; an error of irstd becomes one line and its exit status."""
    parser = argparse.ArgumentParser(
        "python -m irstd.training",
        description="Train without a cluster: the same command goes on after a kill, and takes a finished run.",
    )
    parser.add_argument("recipe", type=Path, help="YAML file of a full recipe, see recipes/")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="such as train.epochs=20")
    parser.add_argument("--shards", default="shards", metavar="DIR", help="folder of shards, or its URL")
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where run folders lie")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: cuda where there is one")
    parser.add_argument("--quick", action="store_true", help="the recipe's quick test: the same work on the sample")
    parser.add_argument("--debug", action="store_true", help="show a traceback with an error")
    given = parser.parse_intermixed_args(arguments)
    # Spinning threads of several processes would take each other's cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from irstd.training import bare

        bare.run(given.recipe, given.overrides, given.shards, given.out, given.device, quick=given.quick)
    except IrstdError as error:
        if given.debug:
            raise
        if os.environ.get("RANK", "0") == "0":
            print(f"irstd: {error}", file=sys.stderr, flush=True)
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main())

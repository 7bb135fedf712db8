"""How long a version takes to be registered, and to be loaded by its alias in a new process.

    python -m benchmarks.registry [--width-ggl 16] [--width-bp 1.0]

Full-size networks with fresh weights, in an embedded MLflow in a temporary folder. The baseline of loading is the same weights
loaded into the same network from a folder, without a registry. Imports are not counted. CPU seconds stand beside the clock's:
on a machine that does other work they are what the work costs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LOAD = """
import sys, time
import cv2, mlflow, mlflow.pyfunc, numpy, pydantic, safetensors.torch, torch, yaml
import mlflow.store.model_registry.sqlalchemy_store, mlflow.store.tracking.sqlalchemy_store
mlflow.set_tracking_uri(sys.argv[1])
started = time.perf_counter(), time.process_time()
model = mlflow.pyfunc.load_model(sys.argv[2])
print(time.perf_counter() - started[0], time.process_time() - started[1])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width-ggl", type=int, default=16)
    parser.add_argument("--width-bp", type=float, default=1.0)
    given = parser.parse_args()

    from safetensors.torch import save_file

    from irstd.config import BPFPNConfig, Config, GGLNetConfig
    from irstd.files import sha256_file
    from irstd.inference import package
    from irstd.inference.detector import Detector
    from irstd.models import build_model
    from irstd.models.contract import state
    from irstd.registry import models, tracking
    from irstd.workspace import Workspace

    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        (root / "data.dvc").touch()
        workspace = Workspace(root, root / ".irstd").enter()
        for config in (
            Config(model=GGLNetConfig(width=given.width_ggl)),
            Config(model=BPFPNConfig(width=given.width_bp)),
        ):
            name = config.model.name
            weights = root / f"{name}.safetensors"
            save_file(state(build_model(config)), weights)
            lineage = {"run": name, "sets": {}, "code": "", "weights_sha256": sha256_file(weights)}
            made = package.write(
                root / name, weights, config, [], lineage, {"chosen": "last", "digests": {}, "values": {}}
            )
            run = tracking.start(workspace, name, {}, {})
            started = time.perf_counter(), time.process_time()
            version = models.register(workspace, run, made, name, {})
            registering, cpu = time.perf_counter() - started[0], time.process_time() - started[1]
            models.set_alias(workspace, name, "champion", version)
            started = time.process_time()
            Detector(made)
            plain = time.process_time() - started
            call = [sys.executable, "-c", LOAD, workspace.mlflow_uri, f"models:/{name}@champion"]
            bare = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
            done = subprocess.run(call, cwd=root, env=bare, capture_output=True, text=True, check=True)
            loading, loading_cpu = map(float, done.stdout.split()[-2:])
            print(
                f"{name}: registered in {registering:.2f} s ({cpu:.2f} s CPU; goal 5 s); loaded by alias in {loading:.2f} s "
                f"({loading_cpu:.2f} s CPU; goal 4 s), {loading_cpu / plain:.1f} times the CPU of a folder ({plain:.2f} s)"
            )


if __name__ == "__main__":
    main()

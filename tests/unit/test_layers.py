"""Imports go down only, and the lower half runs without the upper stack."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
# Who alone may import what.
OWNERS = {
    "prefect": ("pipelines/",),
    "mlflow": ("irstd/registry/",),
    "ray": ("irstd/cluster/",),
    "optuna": ("irstd/cluster/",),
    "typer": ("irstd/cli/",),
    "fastapi": ("irstd/service/",),
    "uvicorn": ("irstd/service/",),
}
UPPER = ("ray", "prefect", "mlflow", "dvc", "optuna", "typer")
# From the top to the bottom; a module imports from its own layer or from below.
ORDER = (
    "irstd/__main__.py irstd/cli/",
    "pipelines/",
    "irstd/commands/ irstd/stack",
    "irstd/registry/",
    "irstd/cluster/",
    "irstd/versioning.py",
    "irstd/workspace.py irstd/environment.py",
    "irstd/bench/ irstd/comparison/ irstd/service/",
    "irstd/reports/",
    "irstd/export/",
    "irstd/training/",
    "irstd/inference/",
    "irstd/models/",
    "irstd/metrics/",
    "irstd/data/",
    "irstd/config/",
    "irstd/foreign.py",
    "irstd/errors.py irstd/files.py irstd/turns.py irstd/__init__.py",
)
# A stage's own command line enters the workspace from below, inside its main().
ENTRIES = {"irstd/data/shards.py"}


def sources() -> list[Path]:
    return sorted([*(ROOT / "irstd").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")])


def imports(path: Path) -> set[str]:
    """Modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(name: str) -> int | None:
    for level, places in enumerate(ORDER):
        if any(name == place or (name.startswith(place) and not place.endswith(".py")) for place in places.split()):
            return level
    return None


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_library_has_one_owner(path):
    name = path.relative_to(ROOT).as_posix()
    for module in imports(path):
        owners = OWNERS.get(module.partition(".")[0])
        assert owners is None or name.startswith(owners), f"{name} imports {module}"


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    name = path.relative_to(ROOT).as_posix()
    level = layer(name)
    assert level is not None, f"{name} belongs to no layer"
    for module in imports(path):
        target = layer(module.replace(".", "/") + ("/" if (ROOT / module.replace(".", "/")).is_dir() else ".py"))
        if module.startswith(("irstd.", "pipelines.")) and target is not None and name not in ENTRIES:
            assert target >= level, f"{name} imports {module}, which lies above it"


def test_the_lower_half_imports_with_the_upper_stack_blocked():
    code = f"""
import sys
for name in {UPPER!r}:
    sys.modules[name] = None
import irstd.training.loop, irstd.training.evaluation, irstd.inference.detector, irstd.inference.overlay
import irstd.data.shards, irstd.data.ingest, irstd.data.synthetic, irstd.metrics, irstd.models.classical
import irstd.bench.loader, irstd.data.doctor.examination, irstd.reports.data
print("imported")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "imported", done.stderr


def test_the_shard_stage_depends_on_what_it_computes_with():
    """`dvc repro` builds again where a module changes that decides what shards hold, or what stops them."""
    code = "import sys, irstd.data.shards; print(*(m for m in sys.modules if m.startswith('irstd.data.')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    # Of these the build takes nothing, or only where and when it computes; statistics of counts were taken by ingest.
    aside = {"doctor", "containers", "counts", "marks", "processes", "remote", "contrast", "doctor.contrast"}
    wanted = {module.removeprefix("irstd.data.") for module in done.stdout.split()} - aside
    listed = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["shard"]["deps"]
    listed = {
        path.removeprefix("irstd/data/").removesuffix(".py").replace("/", ".") for path in listed if path != "data"
    }
    assert listed == wanted


def test_help_needs_no_heavy_import():
    code = """
import sys
from irstd.cli import run
run(["--help"])
heavy = {"torch", "ray", "prefect", "mlflow", "cv2", "numpy", "dvc", "pydantic"} & set(sys.modules)
print("heavy:", sorted(heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "heavy: []" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("arguments", [[], ["list", "sets"]])
def test_a_reader_that_has_had_enough_is_told_nothing(arguments):
    with subprocess.Popen(
        [sys.executable, "-m", "irstd", *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""

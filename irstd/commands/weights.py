"""`irstd weights import`: weights as others publish them, as something that irstd runs or starts from."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from irstd import config as configuration
from irstd.commands.show import result, say
from irstd.commands.train import check_package_folder
from irstd.errors import InputError, nearest
from irstd.files import sha256_file, staged_folder, writing
from irstd.workspace import Workspace

# How the authors of GGL-Net train and measure (NUDT-SIRST at 256): docs/MODELS.md.
AUTHORS = {"model.border": "authors", "data.resize": "stretch:512"}
KINDS = ("ggl-net", "bp-fpn")


def import_(workspace: Workspace, file: Path, kind: str, out: Path, overrides: list[str]) -> None:
    """GGL-Net becomes a model package in the folder `out`, YOLOX-s a file `out` that BP-FPN starts from."""
    if kind not in KINDS:
        raise InputError(
            f"--as {kind}: no such network{nearest(kind, KINDS)}; weights are read as {' or '.join(KINDS)}"
        )
    changed = configuration.parse_overrides(overrides)
    for key in changed:
        if not key.startswith(("model.", "data.", "evaluate.")):
            raise InputError(f"{key}: decides nothing for weights that are there; model, data and evaluate do")
    (package if kind == "ggl-net" else start)(file, out, changed)


def package(file: Path, out: Path, changed: dict[str, Any]) -> None:
    """The authors' GGL-Net as a model package."""
    from safetensors.torch import save_file

    from irstd.inference import package as packages
    from irstd.models import build_model
    from irstd.models.contract import load_weights, parameter_count, state
    from irstd.models.ggl_net.released import from_released
    from irstd.models.released import read_tensors
    from irstd.training.identity import code_hash

    check_package_folder(out)
    tensors, options, left = from_released(read_tensors(file), file)
    found = {f"model.{name}": value for name, value in options.items()}
    config = configuration.load(overrides=found | AUTHORS | changed, model="ggl-net")
    model = build_model(config)
    load_weights(model, tensors, file)
    source = {"file": file.name, "sha256": sha256_file(file), "as": "ggl-net"}
    lineage = {"run": f"imported-{source['sha256'][:12]}", "sets": {}, "code": code_hash(), "source": source}
    metrics = {"chosen": "imported", "digests": {}, "values": {}}
    with writing(out), tempfile.TemporaryDirectory(prefix="irstd-import-") as place, staged_folder(out) as staged:
        weights = Path(place) / "weights.safetensors"
        save_file(state(model), weights)
        packages.write(staged, weights, config, [], lineage | {"weights_sha256": sha256_file(weights)}, metrics)
    said(file, len(tensors), left)
    given = ", ".join(f"{path}={value}" for path, value in (AUTHORS | changed).items())
    say(
        f"{out}: GGL-Net with {parameter_count(model):,} parameters, {given}; irstd detect VIDEO --model {out} --out DIR"
    )
    result(model=str(out), tensors=len(tensors), unused=len(left))


def start(file: Path, out: Path, changed: dict[str, Any]) -> None:
    """What of YOLOX-s fits BP-FPN, as a file for train.init."""
    from safetensors.torch import save_file

    from irstd.models import build_model
    from irstd.models.bp_fpn.weights import load_yolox
    from irstd.models.released import read_tensors

    if out.suffix != ".safetensors":
        raise InputError(f"--out {out}: name a file that ends in .safetensors")
    if out.exists():
        raise InputError(f"--out {out}: is there already; name a new file")
    model = build_model(configuration.load(overrides=changed, model="bp-fpn"))
    loaded = load_yolox(model, file)
    tensors = read_tensors(file)
    kept = {name: tensors[name].contiguous() for name in loaded.loaded}
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_name(f".{out.name}.part")
        try:
            save_file(kept, part, {"file": file.name, "sha256": sha256_file(file), "as": "bp-fpn"})
            part.replace(out)
        finally:
            part.unlink(missing_ok=True)
    said(file, len(kept), [name for name in tensors if name not in kept])
    fresh = sorted({".".join(name.split(".")[:2]) for name in loaded.left})
    say(f"{len(loaded.left)} tensors of BP-FPN stay fresh: {', '.join(fresh)}")
    say(f"{out}: irstd train bp-fpn train.init={out}")
    result(weights=str(out), tensors=len(kept), unused=len(tensors) - len(kept))


def said(file: Path, taken: int, left: list[str]) -> None:
    """What was taken, and by name what was not."""
    say(f"{file.name}: {taken} tensors taken" + (f", {len(left)} not: {', '.join(left)}" if left else ""))

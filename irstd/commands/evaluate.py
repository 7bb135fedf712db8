"""`irstd evaluate`: a model and the classical baselines on a split, each number with its protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irstd import config as configuration
from irstd.commands import baselines, siblings, threshold
from irstd.commands.baselines import Anew
from irstd.commands.frames import frames_of, ignored, mask_of, truth
from irstd.commands.scores import comparable, show
from irstd.commands.show import counting, result, say
from irstd.data.loader import ClipLoader
from irstd.data.manifest import Manifest, read_all
from irstd.errors import InputError, WorkError
from irstd.files import canonical_json, sha256_text, write_json
from irstd.inference.package import Package
from irstd.training import expectations
from irstd.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np

    from irstd.metrics import Report
    from irstd.metrics.mistakes import Mistakes
    from irstd.models.contract import Detections, Model


def run(
    workspace: Workspace,
    uri: str | None,
    overrides: list[str],
    split: str,
    shards: str | None,
    out: Path | None,
    report: Path | None = None,
    fa: float | None = None,
    beside: list[str] | None = None,
    stray: Sequence[str] = (),
    field_best: bool = False,
    seeds: bool = False,
) -> None:
    """`beside`: names of the classical baselines; None: the quick ones. `stray`: options that are of predictions alone.

    `field_best`: measure the kept epochs instead, see `irstd.commands.field_best`. `seeds`: measure the other seeds of the
    training too.
    """
    from irstd.metrics.mistakes import Mistakes
    from irstd.registry import models, tracking

    if uri is None:
        raise InputError(
            "nothing to evaluate: name a model (models:/NAME@ALIAS, or a package's folder), or --predictions"
        )
    if stray:
        raise InputError(f"{stray[0]}: is of --predictions; a model has its own")
    sets = checked_options("a model is measured", overrides, split, out, report, fa, beside)
    with tracking.answering(workspace):
        package = models.package(workspace, uri)
    if seeds and field_best:
        raise InputError("--seeds and --field-best: the best epoch on test is of one run; give one of them")
    if seeds:
        siblings.packages(workspace, package)  # refused before anything is measured
    if split in package.config.data.train_on.split("+"):
        say(f"the model was trained on {split}: its numbers there are of no use for a comparison")
    place = workspace.shards_at(shards)
    if not sets:  # the model's own; of other shards all, since they need not know those
        own = sorted(package.content["lineage"]["sets"]) if shards is None else []
        sets = own or [m.set for m in read_all(place)]
    if field_best:
        from irstd.commands import field_best as epochs

        epochs.run(workspace, package, place, split, sets, out)
        use(workspace, package, {"split": split, "digests": {m.set: m.digest for m in read_all(place, sets)}})
        return
    worst = Mistakes(package.content["threshold"])
    gathered, found = measured(package, place, split, sets, fa, beside, worst)
    label = label_of(package.content["lineage"], found)
    if seeds:
        found["seeds"] = siblings.measure(
            workspace,
            package,
            lambda other: measured(other, place, split, sets, beside=[]),
            lambda *what: keep(workspace, *what),
            (gathered, found),
        )
    elif several := package.content["metrics"].get("seeds"):
        rows = siblings.known(workspace, package, found, label)
        found["seeds"] = siblings.together(rows, several["seeds"])
    folder = keep(workspace, package, gathered, found, report, out, worst, uri)
    tell(found, folder, model=uri)


def use(workspace: Workspace, package: Package, found: dict[str, Any]) -> None:
    """Count a measurement on test, where the model's run is in MLflow: {"test_uses"}."""
    from irstd.registry import tracking, uses

    if found["split"] != "test":
        return
    lineage = package.content["lineage"]
    with suppress(WorkError), tracking.answering(workspace):  # what logs the numbers says so where it does not answer
        found["test_uses"] = uses.counted(workspace, lineage.get("mlflow_run"), label_of(lineage, found))


def keep(
    workspace: Workspace,
    package: Package,
    gathered: Report,
    found: dict[str, Any],
    report: Path | None = None,
    out: Path | None = None,
    worst: Mistakes | None = None,
    uri: str = "",
) -> Path:
    """Show the numbers, write and log them with all that the report holds; the folder. `worst`: of the model `uri`."""
    lineage = package.content["lineage"]
    use(workspace, package, found)
    if "recipe" in lineage and found["digests"] == lineage["sets"]:
        found["expected"] = expectations.compared(
            lineage["recipe"], found["split"], found["protocols"], found["chosen"]
        )
    folder = report or workspace.home / "evaluations" / f"{lineage['run']}-{label_of(lineage, found)}"
    files = written(workspace, gathered, found, out, folder)
    if worst is not None:
        files += gallery(workspace, worst, uri, found, folder)
    log(workspace, lineage, found, files)
    return folder


def checked_options(
    what: str,
    overrides: list[str],
    split: str,
    out: Path | None,
    report: Path | None,
    fa: float | None,
    beside: list[str] | None,
) -> list[str] | None:
    """The sets that were asked for (None: none). `InputError` for what a model and predictions are both refused for.

    Where what is to be written cannot lie, for unknown baselines, a Fa that no threshold can be chosen for, and overrides
    of anything but the sets; `what` says of which.
    """
    from irstd.models import classical

    if out is not None and out.is_dir():
        raise InputError(f"--out {out}: is a folder; name a file")
    if report is not None and report.exists() and not report.is_dir():
        raise InputError(f"--report {report}: is a file; name a folder")
    classical.chosen(beside)
    if fa is not None and split != "val":
        raise InputError(f"--fa {fa:g}: a threshold is chosen on val, {split} does not choose one (--split val)")
    if fa is not None and not 0 < fa < 1:
        raise InputError(f"--fa {fa:g}: a fraction of pixels between 0 and 1, such as 1e-5")
    changed = configuration.parse_overrides(overrides)
    if other := next((key for key in changed if key != "data.sets"), None):
        raise InputError(f"{other}: {what} as it is; data.sets=[...] chooses the sets")
    return changed.get("data.sets")


def checked_task(boxes: bool, what: str, fa: float | None, loader: ClipLoader) -> None:
    """`InputError` where `what`, which gives boxes or masks, cannot be scored against these frames, or has no Fa."""
    if boxes and fa is not None:
        raise InputError(f"--fa: Fa counts pixels of masks, and {what} gives boxes; see recall_at in the report")
    if not boxes and not loader.masks:
        raise InputError(
            f"the split {loader.split!r} of {', '.join(m.set for m in loader.manifests)} has no masks to score {what} against"
        )


def written(
    workspace: Workspace, gathered: Report, found: dict[str, Any], out: Path | None, folder: Path
) -> list[Path]:
    """Show the numbers, and write them with all that the report holds; the files."""
    show(found)
    if out is not None:
        write_json(out, found)
    files = gathered.write(folder, found)
    say(f"curves, and rows of every frame and sequence: {workspace.relative(folder)}")
    return files


def gallery(workspace: Workspace, worst: Mistakes, model: str, found: dict[str, Any], folder: Path) -> list[Path]:
    """Write the page of the worst mistakes, and the picture of all of them, into `folder`; the files."""
    from irstd.reports.gallery import About, write

    about = {name: found[name] for name in ("split", "digests", "chosen", "threshold", "frames")}
    files = write(folder, worst, About(model, **about))
    say(f"the worst misses and false alarms: {workspace.relative(files[0])}")
    return files


def tell(found: dict[str, Any], folder: Path, **what: str) -> None:
    """The last line, which flows read."""
    row = found["protocols"][0]
    numbers = {k: row[k] for k in ("iou", "pd", "fa", "ap50", "precision", "recall") if k in row}
    about = {k: found[k] for k in ("threshold", "digests", "chosen")}
    about |= {"protocol": row["protocol"], "grid": row["grid"], "report": str(folder)}
    result(**what, split=found["split"], **numbers, **about)


def label_of(lineage: dict[str, Any], found: dict[str, Any]) -> str:
    """The split; with their digests' hash where the numbers are of other shards than the model was trained on, so that they
    stand beside the model's own."""
    if found["digests"] == lineage["sets"]:
        return found["split"]
    return f"{found['split']}-{sha256_text(canonical_json(found['digests']))[:12]}"


def log(workspace: Workspace, lineage: dict[str, Any], found: dict[str, Any], files: Sequence[Path] = ()) -> None:
    """Write the numbers to the model's run, and the files beside them, where this store has it: a package may come from
    elsewhere."""
    from irstd.registry import models, tracking
    from irstd.training.evaluation import REPORTED

    run_id, label = lineage.get("mlflow_run"), label_of(lineage, found)
    with tracking.answering(workspace):
        if not run_id or not tracking.known(workspace, run_id):
            say(f"the model's run is not in MLflow at {workspace.mlflow_uri}; its numbers are not logged there")
            return
        values = {
            f"{label}_{row['protocol']}_{k}": row[k]
            for row in found["protocols"]
            for k in (*REPORTED["segmentation"], *REPORTED["detection"])
            if row.get(k) is not None
        }
        tracking.log_values(tracking.client(workspace), run_id, values)
        tracking.log_text(workspace, run_id, configuration_json(found), f"evaluation-{label}.json")
        tracking.log_files(workspace, run_id, files, f"evaluation-{label}")
        models.describe_run(workspace, run_id)


def configuration_json(value: Any) -> str:
    import json

    return json.dumps(value, indent=1, sort_keys=True)


def score(package: Package, shards: str | Path, split: str, sets: list[str]) -> dict[str, Any]:
    """The numbers of `measured`."""
    return measured(package, shards, split, sets)[1]


def measured(
    package: Package,
    shards: str | Path,
    split: str,
    sets: list[str],
    fa: float | None = None,
    beside: list[str] | None = None,
    worst: Mistakes | None = None,
) -> tuple[Report, dict[str, Any]]:
    """The report of the package's model on `split` of `sets`, and its numbers with those of the classical baselines.

    The numbers are what the report computes, with {"split", "digests", "chosen", "run", "baselines": [...]}, and with a wanted
    `fa` also {"wanted_fa": {"wanted", "threshold", "pd", "fa"}}. The frames are read again for each pass over them, so memory
    does not grow with their size. No baselines where the model marks too many pixels for a comparison to say anything.
    `worst` collects the mistakes.
    """
    from irstd.training.loop import loader_for

    config = package.config.model_copy(update={"data": package.config.data.model_copy(update={"sets": sets})})
    manifests = read_all(shards, sets)
    labelled(manifests, split)

    def fresh() -> ClipLoader:
        """A loader at its beginning: passes go on side by side, and a loader that was gone through stands elsewhere."""
        dataset = package.content["intensity"]["dataset"]
        return loader_for(config, shards, split, manifests, batch_size=1, dataset=dataset)

    loader = fresh()
    checked_task(config.model.task == "detection", config.model.name, fa, loader)
    model = package.model()
    # First of all: where it cannot be told, nothing else is waited for.
    maps = Anew(lambda: (model.predict(batch)[0].probability_HW for batch in fresh()))
    point = None if fa is None else threshold.of_maps(maps, fresh, fa)
    gathered = fill(model, loader, worst)
    found = gathered.compute() | {
        "split": split,
        "digests": {m.set: m.digest for m in manifests},
        "chosen": package.content["metrics"]["chosen"],
        "run": package.content["lineage"]["run"],
        "baselines": [],
    }
    found["baselines"] = compared(fresh, found, beside)
    if point is not None:
        found["wanted_fa"] = point
    return gathered, found


def labelled(manifests: list[Manifest], split: str) -> None:
    """`InputError` where the split has no labelled key frame."""
    have = [s for s in ("train", "val", "gate", "test") if sum(m.count(s, "labelled") for m in manifests)]
    if split not in have:
        raise InputError(
            f"no labelled key frame in the split {split!r} of {', '.join(m.set for m in manifests)}; there are: "
            f"{', '.join(have) or 'none'} (--split)"
        )


def groups_of(manifests: Iterable[Manifest]) -> dict[str, str]:
    """The group of each "<set>/<sequence>"."""
    return {
        f"{manifest.set}/{sequence}": f"{manifest.set}/{values['group']}"
        for manifest in manifests
        for sequence, values in manifest.content["sequences"].items()
    }


def fill(model: Model, loader: ClipLoader, worst: Mistakes | None = None, every: int = 1) -> Report:
    """A report of every labelled key frame of `loader`, whose batches hold one each, or of one of `every`.

    `worst` collects the mistakes on the same frames.
    """
    from irstd.metrics import DetectionReport, SegmentationReport

    groups = groups_of(loader.manifests)
    out: DetectionReport | SegmentationReport
    if model.task == "detection":
        out = DetectionReport(model.threshold)
    else:
        out = SegmentationReport(model.threshold, pseudo_masks=loader.pseudo_masks)
    done = counting("evaluate", len(loader.windows), "frames")
    for count, (batch, frame_HW) in enumerate(frames_of(loader), 1):
        if (count - 1) % every:
            continue
        (key,), (found,) = batch["key"], model.predict(batch)
        more = {"group": groups[key[0]], "ignore_K4": ignored(batch), "frame_HW": frame_HW}
        if isinstance(out, DetectionReport):
            out.update(key, found.boxes_N4, found.scores_N, batch["boxes"][0], **more)
        else:
            out.update(key, found.probability_HW, mask_of(batch), **more)
        if worst is not None:
            mistakes_of(worst, batch, found, frame_HW)
        done(count)
    return out


def mistakes_of(worst: Mistakes, batch: dict[str, Any], found: Detections, frame_HW: np.ndarray) -> None:
    """Collect the mistakes of one key frame."""
    (key,) = batch["key"]
    if found.probability_HW is None:
        worst.boxes(key, found.boxes_N4, found.scores_N, batch["boxes"][0], frame_HW, ignored(batch))
    else:
        worst.masks(key, found.probability_HW, mask_of(batch), frame_HW, ignored(batch))


def compared(
    fresh: Callable[[], ClipLoader], found: dict[str, Any], beside: list[str] | None = None
) -> list[dict[str, Any]]:
    """The classical baselines beside the numbers `found`, on the same frames; none where too many pixels are marked."""
    loader, rows = fresh(), found["protocols"]
    boxes = found["task"] == "detection"
    if beside == [] or not (boxes or comparable(rows[0])):
        return []
    masks, ignores = truth(fresh)
    frames = baselines.Frames(
        Anew(lambda: (frame_HW for _, frame_HW in frames_of(fresh()))),
        Anew(lambda: (batch["boxes"][0] for batch in fresh())) if boxes else masks,
        ignores,
        [batch["key"][0][0] for batch in fresh()],
        groups_of(loader.manifests),
    )
    if boxes:
        return baselines.beside_boxes(frames, rows, beside)
    return baselines.beside_masks(frames, rows[0]["fa"], beside, loader.pseudo_masks)

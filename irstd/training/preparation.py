"""What is checked before a run starts, wherever it will run: bad input is one line, and nothing has begun."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irstd.config import Config
from irstd.data.gradient import GradientSpec
from irstd.data.manifest import Manifest, read_all
from irstd.data.windows import require, require_gradient
from irstd.errors import InputError
from irstd.inference import provenance
from irstd.metrics.curve import too_few_pixels
from irstd.training.identity import Identity, identity
from irstd.training.loaders import loader_for, val_chooses


@dataclass(frozen=True)
class Job:
    """A run that was checked and can start."""

    config: Config
    shards: str | Path
    manifests: list[Manifest]
    identity: Identity
    origin: dict[str, Any] | None = None
    """The model version or package that its weights start from."""
    known: Identity | None = None
    """The identity where the run began with other code than this one."""

    @property
    def name(self) -> str:
        return self.identity.name


def prepare(config: Config, shards: str | Path) -> Job:
    """Refuse what cannot be trained, before anything starts."""
    from irstd.training.rehearsal import rehearse
    from irstd.training.start import weights_file

    origin = None
    if config.train.init:
        origin = provenance.origin(weights_file(config.train.init))
        # A worker's working folder is another.
        place = {"init": str(Path(config.train.init).resolve())}
        config = config.model_copy(update={"train": config.train.model_copy(update=place)})
    manifests = read_all(shards, config.data.sets)
    split = config.data.train_on
    require(manifests, split, config.model.frames)
    for manifest in manifests if config.model.task == "segmentation" else ():
        samples = [s for shard in manifest.shards(split) for s in shard["samples"]]
        if samples and not any("masks.npy" in s["members"] for s in samples):
            others = [
                m.set
                for m in manifests
                if any("masks.npy" in e["members"] for h in m.shards(split) for e in h["samples"])
            ]
            choose = f", or choose with data.sets=[{','.join(others)}]" if others else ""
            hint = (
                "; make them from its boxes (shard: {derive: {masks: half-maximum}} in params.yaml, then irstd shard)"
                f", or train bp-fpn, which learns from boxes{choose}"
            )
            raise InputError(f"set {manifest.set} has no masks, which {config.model.name} learns from{hint}")
    if config.model.stored_gradient and config.data.resize == "native":
        require_gradient(manifests, GradientSpec(config.model.stored_gradient, "replicate"))
    lenient = {"skip_damaged": config.data.skip_damaged}
    # Making a loader is its own check: intensity rule, clip length, batch against key frames.
    loaders = [loader_for(config, shards, split, manifests, batch_size=config.train.batch, **lenient)]
    if split == "train" and sum(m.count("val", "labelled") for m in manifests):
        loaders.append(loader_for(config, shards, "val", manifests, batch_size=1, **lenient))
    if config.evaluate.objective == "pd_at_fa" and config.evaluate.wanted_fa is not None and len(loaders) > 1:
        windows, side = loaders[1].windows, config.evaluate.grid
        shapes = [windows.samples[number].members["frames.npy"][3] for number in windows.sample_N]
        if why := too_few_pixels(sum(side * side if side else h * w for _, h, w in shapes), config.evaluate.wanted_fa):
            raise InputError(f"evaluate.wanted_fa={config.evaluate.wanted_fa:g}: {why}")
    if config.train.patience and not val_chooses(config, manifests):
        why = "have no target in the split 'val'" if split == "train" else "are trained on with their val"
        raise InputError(
            f"train.patience={config.train.patience}: the chosen sets {why}, so there is nothing to get better on; leave it out"
        )
    for loader in loaders:
        if config.model.task == "segmentation" and not loader.masks:
            raise InputError(
                f"the split {loader.split!r} of {', '.join(m.set for m in manifests)} has frames without masks, which "
                f"{config.model.name} learns from; choose sets with data.sets=[...]"
            )
    rehearse(config, shards, manifests)
    return Job(config, shards, manifests, identity(config, manifests), origin)


def check_batch(job: Job, workers: int) -> None:
    """`InputError` where the global batch, or the validation, cannot be shared out."""
    batch = job.config.train.batch
    learned = job.config.data.train_on
    for split in (learned, *(["val"] if learned == "train" else [])):
        frames = sum(m.count(split, "labelled") for m in job.manifests)
        if 0 < frames < workers:
            raise InputError(
                f"{workers} workers for {frames} key frames of the split {split!r}; ask for fewer with --workers"
            )
    shares = workers * job.config.train.accumulate
    if batch % shares:
        raise InputError(
            f"train.batch={batch} does not divide by {workers} workers"
            + (f" x train.accumulate={job.config.train.accumulate}" if shares > workers else "")
            + "; change it, or choose --workers"
        )

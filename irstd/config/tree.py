"""The sections of the tree, and the whole of it."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from irstd.config.networks import BPFPNConfig, GGLNetConfig, ModelConfig, Section
from irstd.config.training import TrainConfig
from irstd.config.waivers import Waiver


class GradientConfig(Section):
    """The precomputed gradient map."""

    operator: Literal["central", "sobel", "scharr", "none"] = Field("central", description="'none' leaves the map out")
    padding: Literal["replicate", "zero"] = "replicate"


class SplitConfig(Section):
    """How new groups of sequences are given to the splits."""

    by: Literal["group", "block"] = Field("group", description="'block': contiguous stretches of each sequence")
    train: float = Field(0.6, ge=0, le=1)
    val: float = Field(0.15, ge=0, le=1)
    gate: float = Field(0.1, ge=0, le=1)
    test: float = Field(0.15, ge=0, le=1)
    allow_duplicates: list[str] = Field(
        [], description="near-duplicates across splits to accept: SET/SEQUENCE+SEQUENCE, or SET for all of a set"
    )

    @model_validator(mode="after")
    def _shares(self) -> SplitConfig:
        if abs(self.train + self.val + self.gate + self.test - 1) > 1e-6:
            raise ValueError("the shares train, val, gate and test must add up to 1")
        return self


class DeriveConfig(Section):
    """Truth that the annotations lack, made from what they have; the manifest names it."""

    masks: Literal["none", "box", "ellipse", "half-maximum"] = Field("none", description="pseudo-masks from boxes")
    point_size: float = Field(5.0, gt=0, le=64, description="side in pixels of the box around a point that has none")


class ShardConfig(Section):
    """The shards of a set."""

    frames: int = Field(5, ge=1, le=64, description="T: the longest clip that can be cut from a shard")
    chunk: int = Field(16, ge=1, le=4096, description="key frames in one sample of a shard")
    gradient: GradientConfig = GradientConfig()
    split: SplitConfig = SplitConfig()
    derive: DeriveConfig = DeriveConfig()
    waive: list[str] = Field(
        [], description="findings of irstd doctor data to accept: KIND, SET:KIND or SET/SEQUENCE:KIND (docs/DOCTOR.md)"
    )

    @field_validator("waive")
    @classmethod
    def _kinds(cls, given: list[str]) -> list[str]:
        for each in given:
            Waiver.parse(each)
        return given

    @property
    def waivers(self) -> tuple[Waiver, ...]:
        """`waive`, parsed."""
        return tuple(map(Waiver.parse, self.waive))


Interpolation = Literal["bilinear", "bicubic", "area", "nearest"]
SIDES = range(16, 8193)
"""Sides in pixels to which frames can be resized."""


class DataConfig(Section):
    """What the network sees of the shards."""

    sets: list[str] = Field([], description="names of sets; empty means all")
    intensity: Literal["auto", "full_scale", "sequence", "dataset", "frame"] = Field(
        "auto", description="counts to x; 'auto': full_scale for 8-bit recordings, frame above"
    )
    crop: int | None = Field(None, ge=16, description="side of training crops in pixels; none: whole frames")
    target_crop: float = Field(0.5, ge=0, le=1, description="probability that a crop is placed over a target")
    flips: bool = True
    quarter_turns: bool = True
    contrast: float = Field(0.2, ge=0, lt=1, description="training: x times 1 +- this")
    brightness: float = Field(0.1, ge=0, description="training: x plus or minus up to this")
    zoom: float = Field(0.0, ge=0, le=0.5, description="training: frames scaled by 1 +- this")
    shift: float = Field(0.0, ge=0, le=0.5, description="training: frames moved by up to this share of their sides")
    noise: float = Field(0.0, ge=0, description="training: deviation of Gaussian noise in x, up to this")
    resize: str = Field("native", description="native, letterbox:N or stretch:N: what the network gets of whole frames")
    interpolation: Interpolation = Field("bilinear", description="of resized frames, smoothed where they shrink")
    letterbox: Literal["corner", "centre"] = Field(
        "corner",
        description="where frames lie; 'centre': in the middle of grey (x = 128 / 255), as YOLOX's offspring has it",
    )
    integer_boxes: bool = Field(
        False,
        description="training: corners of resized boxes are cut to whole pixels, as SSTNet's code does by oversight",
    )
    train_on: Literal["train", "train+val"] = Field(
        "train",
        description="'train+val': as papers whose lists have no val; nothing is left to choose a checkpoint by: the last",
    )

    skip_damaged: bool = Field(
        False,
        description="training passes over damaged chunks, counts their key frames and takes others in their place",
    )

    @field_validator("resize", mode="before")
    @classmethod
    def _sized(cls, given: Any) -> Any:
        found = re.fullmatch(r"native|(?:letterbox|stretch):([1-9][0-9]{1,4})", str(given))
        if not found or (found[1] and int(found[1]) not in SIDES):
            raise ValueError(f"write native, letterbox:N or stretch:N, with N from {SIDES[0]} to {SIDES[-1]} pixels")
        return given

    @model_validator(mode="after")
    def _one_scale(self) -> DataConfig:
        if self.crop is not None and self.resize != "native":
            raise ValueError(
                f"data.crop={self.crop} cuts from frames as they are, and whole frames would be measured at "
                f"data.resize={self.resize}, another scale; choose one (data.crop=null or data.resize=native)"
            )
        kind, given = self.resized[0], type(self).model_fields
        if kind != "letterbox" and self.letterbox != given["letterbox"].default:
            raise ValueError(
                f"data.letterbox={self.letterbox} decides nothing with data.resize={self.resize}; remove it"
            )
        if kind == "native" and self.integer_boxes:
            raise ValueError(
                "data.integer_boxes=true is of resized boxes, and data.resize=native resizes none; remove it"
            )
        return self

    @property
    def resized(self) -> tuple[str, int]:
        """Kind and side: ("letterbox", 512); ("native", 0)."""
        kind, _, side = self.resize.partition(":")
        return kind, int(side or 0)


class EvaluateConfig(Section):
    """How numbers are measured."""

    protocol: Literal["strict", "basicirstd", "dnanet", "msda", "nnlab", "centroid"] = Field(
        "strict", description="boxes: strict, nnlab or centroid; masks: all others"
    )
    grid: Literal[256, 512] | None = None
    threshold: float = Field(0.5, ge=0, le=1)
    wanted_fa: float | None = Field(
        None, gt=0, lt=1, description="masks: after training, the model's threshold is chosen on val to keep to this Fa"
    )
    wanted_false_alarms: float | None = Field(
        None, gt=0, description="boxes: after training, it is chosen on val to keep to so many false alarms a frame"
    )
    objective: Literal["iou", "niou", "pd", "pd_at_fa", "ap50", "ap", "f1"] | None = Field(
        None,
        description="what chooses the best checkpoint on val; none: iou of masks, ap50 of boxes (ap under centroid); "
        "pd_at_fa: Pd at wanted_fa",
    )


class RegistryConfig(Section):
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9_.-]+$", description="registered model; default: its kind")
    bound: float = Field(
        0.0, ge=-1, le=1, description="promotion: what the lower end of the difference's interval must be above"
    )


class Config(Section):
    """The whole tree."""

    shard: ShardConfig = ShardConfig()
    model: ModelConfig = GGLNetConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    registry: RegistryConfig = RegistryConfig()

    @model_validator(mode="after")
    def _measures(self) -> Config:
        task, measured = self.model.task, self.evaluate
        protocols, objectives = MEASURES[task][0], self._objectives()
        if measured.protocol not in protocols:
            raise ValueError(
                f"evaluate.protocol={measured.protocol} does not score {task}, which {self.model.name} does; "
                f"use {', '.join(protocols)}"
            )
        if measured.objective not in (None, *objectives):
            raise ValueError(
                f"evaluate.objective={measured.objective} is no number of {task} under {measured.protocol}; "
                f"use {', '.join(objectives)}"
            )
        if measured.objective == "pd_at_fa" and measured.wanted_fa is None:
            raise ValueError("evaluate.objective=pd_at_fa needs the rate of false alarms: evaluate.wanted_fa=1e-5")
        if task == "detection" and measured.grid is not None:
            raise ValueError(f"evaluate.grid={measured.grid} is for masks; boxes are scored in the frame's own pixels")
        if task == "detection" and measured.wanted_fa is not None:
            raise ValueError(
                f"evaluate.wanted_fa={measured.wanted_fa:g} counts pixels of masks, and {self.model.name} gives boxes; "
                "use evaluate.wanted_false_alarms (a frame)"
            )
        if task == "segmentation" and measured.wanted_false_alarms is not None:
            raise ValueError(
                f"evaluate.wanted_false_alarms={measured.wanted_false_alarms:g} counts boxes, and {self.model.name} gives "
                "masks; use evaluate.wanted_fa (a fraction of pixels)"
            )
        return self

    @model_validator(mode="after")
    def _compiles(self) -> Config:
        model = self.model
        if self.train.compile and isinstance(model, BPFPNConfig) and model.bp and model.dgr.variant == "gradient":
            raise ValueError(
                "train.compile=true does not go with model.dgr.variant=gradient, whose second backward pass torch.compile "
                "has not; choose one"
            )
        return self

    @property
    def objective(self) -> str:
        """The number that chooses the best checkpoint on val, and that promotion compares."""
        return self.evaluate.objective or self._objectives()[0]

    def _objectives(self) -> tuple[str, ...]:
        """Those of the task and protocol, the default first: average precision has another name where no IoU decides."""
        absent = "ap50" if self.evaluate.protocol == "centroid" else "ap"
        return tuple(name for name in MEASURES[self.model.task][1] if name != absent)

    @property
    def registered_name(self) -> str:
        return self.registry.name or self.model.slug

    def identity(self) -> dict[str, Any]:
        """What of the configuration decides a trained model (the sets go in by their digests, elsewhere)."""
        # Nothing is interpolated in native frames, and a run from before there was a choice is still that run. So it is with
        # losses that came later.
        idle = {"resize", "interpolation"} if self.data.resize == "native" else set()
        data = self.data.model_dump(
            mode="json", exclude={"sets", "skip_damaged"} | idle | self._later("data", *LATER["data"])
        )
        model = self.model.model_dump(mode="json", exclude=self._later("model", *LATER["model"]))
        found = {"model": model, "data": data}
        loss = self.train.loss
        unused = {name for name in ("focal", "objectness_focal") if not getattr(loss, name)}
        unused |= {"focal_gamma", "focal_alpha"} if len(unused) == 2 else set()
        unused |= {"gaussian_scale"} if loss.similarity == "iou" else set()
        # The weights that it starts from go in by their hash, elsewhere; activations that are computed again are the same.
        # What is written, and how often, changes no bit of it.
        aside = dict.fromkeys(("init", "activation_checkpointing", "checkpoint_every", "keep_every", "keep"), True)
        aside["loss"] = unused
        aside |= dict.fromkeys(self._later("train", *LATER["train"]), True)
        found["train"] = self.train.model_dump(mode="json", exclude=aside)
        # These choose the checkpoint that is kept as best. The threshold for a wanted rate is chosen after it.
        after = {"wanted_false_alarms"} if self.objective == "pd_at_fa" else {"wanted_fa", "wanted_false_alarms"}
        found["select"] = self.evaluate.model_dump(mode="json", exclude=after)
        return found

    def _later(self, section: str, *names: str) -> set[str]:
        """Those of the `names` that have their defaults: a run from before there was a choice is still that run."""
        values = getattr(self, section)
        fields = type(values).model_fields
        return {name for name in names if name in fields and getattr(values, name) == fields[name].default}


# Values that came later, and change nothing as long as they are not given.
LATER = {
    "data": ("integer_boxes", "letterbox", "train_on"),
    "model": ("batch_statistics", "frame_weights"),
    "train": (
        "decayed",
        "ema_ramp",
        "epoch_share",
        "floor",
        "momentum",
        "quick",
        "rate_by",
        "sync_batch_norm",
        "warmup_epochs",
        "warmup_from",
    ),
}

# Protocols and objectives of what a network gives, the default first.
MEASURES = {
    "segmentation": (("strict", "basicirstd", "dnanet", "msda"), ("iou", "niou", "pd", "pd_at_fa")),
    "detection": (("strict", "nnlab", "centroid"), ("ap50", "ap", "f1")),
}

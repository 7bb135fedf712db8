"""One typed configuration tree: what a run computes.

Values come from, each over the one before: the defaults here, `params.yaml`, a recipe, `key=value` on the command line (or
a flow's parameters). An unknown key or a wrong type is refused with one line. What is not here (workers, addresses,
paths) lies in `settings.toml` and never changes a result.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from irstd.errors import InputError, nearest


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


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


class GGLNetConfig(Section):
    """GGL-Net (Zhao et al., IEEE GRSL 2023)."""

    task: ClassVar[str] = "segmentation"
    name: Literal["ggl-net"] = "ggl-net"
    in_channels: Literal[1, 3] = Field(3, description="grey is repeated to three channels, as the authors do")
    width: int = Field(16, ge=4, le=64, description="channels of the first stage; 16 is the published network")
    gradient_branch: bool = True
    squeeze_excitation: bool = True
    supplement: Literal["gsm", "add"] = "gsm"
    fusion: Literal["tgfm", "sbam", "add"] = "tgfm"
    guidance: Literal["two-way", "channel", "spatial"] = "two-way"
    operator: Literal["central", "sobel", "scharr"] = "central"
    border: Literal["replicate", "authors"] = Field(
        "replicate", description="'authors': the map is computed in the network, with a border of zeros"
    )

    @property
    def frames(self) -> int:
        """T, the frames of a clip."""
        return 1


class GILSConfig(Section):
    """The gradient-isolated low-level shortcut of BP-FPN. The paper's own choices are not public: docs/bp-fpn.md."""

    source: Literal["none", "stem", "dark2", "stem+dark2", "image"] = Field(
        "dark2", description="fine maps of stride 2, 4, both, or the frame itself; 'none': no shortcut"
    )
    op: Literal["s2d", "maxpool", "avgpool", "conv", "conv3", "blurpool"] = Field(
        "s2d", description="how they shrink: space to depth, pooling, r x r or 3x3 convolution of stride r, blur"
    )
    detach: bool = Field(True, description="False: an ordinary shortcut, with a gradient of its own")
    level: Literal["p3", "p3+p4", "c3_p3", "all"] = Field(
        "p3", description="where they join: level outputs, the lateral input of the last C3 block, or all three"
    )
    fuse: Literal["add", "concat", "gate"] = "add"
    channels: Literal[16, 32, 64, 128] | None = Field(
        None, description="of the shortcut under 'concat' (none: 64), times model.width"
    )
    norm: bool = True
    act: bool = True
    frames: Literal["all", "key"] = Field("all", description="which frames of a clip get the shortcut")

    @model_validator(mode="after")
    def _sense(self) -> GILSConfig:
        if self.source == "none":
            given = [name for name in _changed(self) if name != "source"]
            if given:
                raise ValueError(
                    f"source=none leaves the shortcut out, so {given[0]} decides nothing; remove one of them"
                )
            return self
        if self.fuse == "concat" and self.level in ("c3_p3", "all"):
            raise ValueError(
                f"fuse=concat always joins at the input of a level's C3 block; level={self.level} would join there twice: "
                "use level=p3 or p3+p4"
            )
        if self.fuse != "concat" and self.channels is not None:
            raise ValueError(
                f"fuse={self.fuse} joins the shortcut to the level's own channels, so channels={self.channels} cannot be "
                "chosen; remove it or use fuse=concat"
            )
        if self.op == "conv3" and (self.source != "dark2" or self.level in ("p3+p4", "all")):
            raise ValueError(
                "op=conv3 strides by 2 only (a 3x3 kernel that strides further skips pixels): it needs source=dark2 and "
                "level=p3 or c3_p3; use op=conv elsewhere"
            )
        return self


class DGRConfig(Section):
    """Directional gradient regularisation of BP-FPN. The paper's own form is not public: docs/bp-fpn.md."""

    variant: Literal["none", "feature", "gradient", "projection", "scaling", "auxiliary"] = Field(
        "feature",
        description="a loss on adjacent maps (V1-V3) or on their gradients (V4), an edit of the gradient (V5 projection, "
        "V6 scaling), or an objectness loss on each level (V7)",
    )
    pairs: Literal["a", "b", "a+b"] = Field("a+b", description="a: levels 4 and 5; b: levels 3 and 4")
    direction: Literal["high-to-low", "low-to-high", "both"] = Field(
        "high-to-low", description="the first one is the target and gets no gradient"
    )
    distance: Literal["cosine", "l2", "smooth_l1"] = "cosine"
    mask: Literal["all", "foreground", "weighted"] = Field(
        "all", description="places that count; 'weighted': the mean of the other two"
    )
    hard_isolation: bool = Field(False, description="the finer map is recomputed without what comes down to it")
    projection: Literal["vector", "map"] = Field("vector", description="V5: at each place, or over a whole map")
    beta: float = Field(0.5, ge=0, le=1, description="V6: share of the gradient that passes")
    weight: float = Field(0.1, ge=0, description="lambda of the loss")
    warmup: float = Field(0.05, ge=0, le=1, description="share of the steps over which the weight rises from 0")

    @model_validator(mode="after")
    def _sense(self) -> DGRConfig:
        loss = {"direction", "distance", "mask", "pairs", "weight", "warmup"}
        used = {
            "none": set(),
            "feature": loss | {"hard_isolation"},
            "gradient": loss,
            "projection": {"pairs", "projection"},
            "scaling": {"pairs", "beta"},
            "auxiliary": {"weight", "warmup"},
        }[self.variant]
        for name in _changed(self):
            if name != "variant" and name not in used:
                raise ValueError(
                    f"{name} decides nothing in variant={self.variant}; remove it or choose another variant"
                )
        if self.hard_isolation and self.direction != "high-to-low":
            raise ValueError(
                f"hard_isolation makes the flow from high to low one-way; with direction={self.direction} the finer map is "
                "a fixed target already"
            )
        return self


def _changed(section: Section) -> list[str]:
    """Names of the values that are not the defaults."""
    return [name for name, field in type(section).model_fields.items() if getattr(section, name) != field.default]


class BPFPNConfig(Section):
    """BP-FPN (Zhang et al., arXiv 2511.13013) on its host SSTNet."""

    task: ClassVar[str] = "detection"
    name: Literal["bp-fpn"] = "bp-fpn"
    frames: int = Field(5, ge=1, le=64, description="T: frames of a clip, the key frame last; 1: no motion neck")
    in_channels: Literal[1, 3] = Field(3, description="grey is repeated to three channels, as the authors do")
    bp: bool = Field(True, description="False: the plain host, without GILS and DGR")
    width: float = Field(1.0, ge=0.03125, le=4, description="multiple of the published numbers of channels")
    motion_branch: bool = Field(False, description="the host's training-only motion loss")
    motion_slices: int = Field(1, ge=1, le=4, description="of its ConvLSTM; 1 as released")
    gils: GILSConfig = GILSConfig()
    dgr: DGRConfig = DGRConfig()
    min_score: float = Field(0.001, ge=0, lt=1, description="detections below are dropped before anything else")
    nms: float = Field(0.65, gt=0, le=1, description="of two detections that overlap more (IoU) the better one stays")

    @model_validator(mode="after")
    def _sense(self) -> BPFPNConfig:
        if not self.bp and (_changed(self.gils) or _changed(self.dgr)):
            raise ValueError("bp=false is the host without GILS and DGR; remove gils and dgr, or set bp=true")
        if self.bp and self.gils.source == "none" and self.dgr.variant == "none":
            raise ValueError("gils.source=none with dgr.variant=none is the host; say so with bp=false")
        if self.frames == 1 and self.motion_branch:
            raise ValueError("motion_branch needs frames of a clip, and frames=1 has no past")
        if self.motion_slices > 1 and not self.motion_branch:
            raise ValueError("motion_slices is a part of motion_branch=true")
        if self.frames == 1 and self.gils.frames == "key":
            raise ValueError("gils.frames=key says nothing with frames=1, where every frame is the key frame")
        return self


def _model_name(value: Any) -> str:
    """Which network a section `model` is of: its name, GGL-Net where it has none."""
    return value.get("name", "ggl-net") if isinstance(value, Mapping) else getattr(value, "name", "?")


ModelConfig = Annotated[
    Annotated[GGLNetConfig, Tag("ggl-net")] | Annotated[BPFPNConfig, Tag("bp-fpn")], Discriminator(_model_name)
]
NETWORKS = {"ggl-net": GGLNetConfig, "bp-fpn": BPFPNConfig}
MODELS = tuple(NETWORKS)
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
    resize: str = Field("native", description="native, letterbox:N or stretch:N: what the network gets of whole frames")
    interpolation: Interpolation = Field("bilinear", description="of resized frames, smoothed where they shrink")

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
        return self

    @property
    def resized(self) -> tuple[str, int]:
        """Kind and side: ("letterbox", 512); ("native", 0)."""
        kind, _, side = self.resize.partition(":")
        return kind, int(side or 0)


class LossConfig(Section):
    """Weighted sums of losses, of networks that give masks and of those that give boxes; a weight of 0 leaves a term out.

    The authors train with soft IoU alone, for hundreds of epochs. From scratch on few targets that tends to stay at an
    empty mask; a share of cross-entropy gets it going (our reading).
    """

    soft_iou: float = Field(1.0, ge=0)
    bce: float = Field(5.0, ge=0)
    edge_hard: float = Field(0.0, ge=0, description="BCE x4 on mask edges, mean over the hardest half")
    box: float = Field(5.0, ge=0, description="boxes: 1 - similarity^2 of assigned cells")
    objectness: float = Field(1.0, ge=0, description="boxes: BCE over all cells")
    classification: float = Field(1.0, ge=0, description="boxes: BCE of the class of assigned cells")
    motion: float = Field(1.0, ge=0, description="boxes: the loss of model.motion_branch")
    similarity: Literal["iou", "gaussian"] = Field(
        "iou", description="boxes: in assignment and loss; 'gaussian' is kinder to targets of a few pixels"
    )
    gaussian_scale: float = Field(12.8, gt=0, description="boxes: px at which 'gaussian' falls to 1/e")

    @model_validator(mode="after")
    def _some(self) -> LossConfig:
        if not self.soft_iou + self.bce + self.edge_hard or not self.box + self.objectness + self.classification:
            raise ValueError("every loss weight is 0")
        return self


class TrainConfig(Section):
    """The training loop."""

    epochs: int = Field(100, ge=1)
    batch: int = Field(8, ge=1, description="key frames in one step over all workers")
    minutes: float | None = Field(None, gt=0, description="stop after the epoch in which this much time has passed")
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    lr: float = Field(5e-4, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup: int = Field(0, ge=0, description="steps of linear warm-up")
    clip: float | None = Field(None, gt=0, description="largest gradient norm")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the averaged weights; 0: off")
    loss: LossConfig = LossConfig()
    val_every: int = Field(1, ge=1, description="epochs between validations (and checkpoints)")
    channels_last: bool = True
    seed: int = Field(0, ge=0, lt=2**31)


class EvaluateConfig(Section):
    """How numbers are measured."""

    protocol: Literal["strict", "basicirstd", "dnanet", "msda", "nnlab"] = Field(
        "strict", description="boxes: strict or nnlab; masks: all others"
    )
    grid: Literal[256, 512] | None = None
    threshold: float = Field(0.5, ge=0, le=1)
    objective: Literal["iou", "niou", "pd", "ap50", "f1"] | None = Field(
        None, description="what chooses the best checkpoint on val; none: iou of masks, ap50 of boxes"
    )


class RegistryConfig(Section):
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9_.-]+$", description="registered model; default: its kind")


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
        protocols, objectives = MEASURES[task]
        if measured.protocol not in protocols:
            raise ValueError(
                f"evaluate.protocol={measured.protocol} does not score {task}, which {self.model.name} does; "
                f"use {', '.join(protocols)}"
            )
        if measured.objective not in (None, *objectives):
            raise ValueError(
                f"evaluate.objective={measured.objective} is no number of {task}, which {self.model.name} does; "
                f"use {', '.join(objectives)}"
            )
        if task == "detection" and measured.grid is not None:
            raise ValueError(f"evaluate.grid={measured.grid} is for masks; boxes are scored in the frame's own pixels")
        return self

    @property
    def objective(self) -> str:
        """The number that chooses the best checkpoint on val, and that promotion compares."""
        return self.evaluate.objective or MEASURES[self.model.task][1][0]

    @property
    def registered_name(self) -> str:
        return self.registry.name or self.model.name

    def identity(self) -> dict[str, Any]:
        """What of the configuration decides a trained model (the sets go in by their digests, elsewhere)."""
        # Nothing is interpolated in native frames, and a run from before there was a choice is still that run.
        idle = {"resize", "interpolation"} if self.data.resize == "native" else set()
        data = self.data.model_dump(mode="json", exclude={"sets"} | idle)
        found = {"model": self.model.model_dump(mode="json"), "data": data}
        found["train"] = self.train.model_dump(mode="json")
        # These choose the checkpoint that is kept as best.
        found["select"] = self.evaluate.model_dump(mode="json")
        return found


# Protocols and objectives of what a network gives, the default first.
MEASURES = {
    "segmentation": (("strict", "basicirstd", "dnanet", "msda"), ("iou", "niou", "pd")),
    "detection": (("strict", "nnlab"), ("ap50", "f1")),
}


def paths(model: type[BaseModel] = Config, prefix: str = "") -> dict[str, Any]:
    """Every dotted path of the tree with its default: {'train.lr': 0.0005, ...}; those of all networks under `model`."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, GGLNetConfig):
            for network in reversed(NETWORKS.values()):
                found |= paths(network, f"{prefix}{name}.")
        elif isinstance(default, BaseModel):
            found |= paths(type(default), f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = default
    return found


def check_path(path: str, where: str) -> None:
    """`InputError` with the nearest name where `path` is not a value of the tree."""
    known = paths()
    if path in known:
        return
    if any(name.startswith(path + ".") for name in known):
        raise InputError(f"{where}: {path} is a section, not a value; write {path}.<name>=<value>")
    raise InputError(f"{where}: unknown key {path!r}{nearest(path, known)}")


def flatten(tree: Mapping[str, Any], where: str, prefix: str = "") -> dict[str, Any]:
    """{'train': {'lr': 1}} -> {'train.lr': 1}, refusing unknown keys; dotted keys may be mixed in."""
    known = paths()
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and path not in known:
            if not any(name.startswith(path + ".") for name in known):
                raise InputError(f"{where}: unknown section {path!r}{nearest(path, _sections(known))}")
            found |= flatten(value, where, path + ".")
        else:
            check_path(path, where)
            found[path] = value
    return found


def _sections(known: Iterable[str]) -> set[str]:
    return {name[:i] for name in known for i, letter in enumerate(name) if letter == "."}


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; `InputError` where it is missing or is something else."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a mapping of sections, found {type(value).__name__}")
    return value


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """['train.lr=1e-3'] -> {'train.lr': 0.001}. Values are YAML, so lists and booleans can be written."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise InputError(f"{pair!r}: expected key=value, such as train.epochs=20")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(f"{pair!r}: the value is not readable as YAML") from None
        if isinstance(value, str):
            # YAML 1.1 reads 1e-3 as a string.
            with suppress(ValueError):
                value = float(value) if value.lower() not in ("nan", "inf", "infinity") else value
        check_path(key, f"{key}={text}")
        found[key] = value
    return found


def load(
    root: Path | None = None,
    recipe: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    model: str | None = None,
) -> Config:
    """Build the tree: defaults < `root`/params.yaml < `recipe` < `overrides` (dotted paths). `model` names the network."""
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}

    def merge(more: Mapping[str, Any], where: str) -> None:
        for path, value in more.items():
            values[path] = value
            origin[path] = where

    if root is not None and (root / "params.yaml").is_file():
        merge(flatten(read_yaml(root / "params.yaml"), "params.yaml"), "params.yaml")
    if recipe is not None:
        merge(flatten(read_yaml(recipe), str(recipe)), str(recipe))
    if model is not None:
        merge({"model.name": model}, "MODEL")
    merge(overrides or {}, "")
    model = str(values.get("model.name", MODELS[0]))
    if model not in MODELS:
        raise InputError(f"unknown model {model!r}{nearest(model, MODELS)}; known: {', '.join(MODELS)}")
    own = paths(NETWORKS[model], "model.")
    for path in values:
        if path.startswith("model.") and path not in own:
            where = f"{origin[path]}: " if origin[path] else ""
            raise InputError(f"{where}{path}: {model} has no such option{nearest(path, own)}")
    try:
        return Config.model_validate(nest(values))
    except ValidationError as error:
        first = error.errors()[0]
        # Inside `model` pydantic names the network, which is no part of the path.
        path = ".".join(str(part) for i, part in enumerate(first["loc"]) if (i, part) != (1, model))
        where = origin.get(path, "")
        message = first["msg"].removeprefix("Value error, ")
        given = f"={values[path]}" if path in values else ""
        named = f"{path}{given}: " if path else ""
        raise InputError(f"{where + ': ' if where else ''}{named}{message[0].lower() + message[1:]}") from None


def nest(values: Mapping[str, Any]) -> dict[str, Any]:
    """{'train.lr': 1} -> {'train': {'lr': 1}}."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *parents, last = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree
